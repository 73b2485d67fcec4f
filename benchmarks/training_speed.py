"""Training speed beside TRL's SFTTrainer: same examples, model, LoRA shape, precision and batch size.

Command: pip install -c requirements.lock -e '.[bench]' && python benchmarks/training_speed.py
Each trainer runs in a process of its own, in turn, several rounds; the medians and their ratio are
printed in real tokens a second (padding does not count). Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent
SEED = 17


def settings(steps: int):
    """Return the shipped training settings, cut to a number of full batches."""
    from forgeline.config import load

    train = load(PROJECT).train
    return train.model_copy(update={"max_examples": steps * train.batch_size, "checkpoint_steps": 10**6})


def forgeline(steps: int) -> dict[str, float]:
    """Train with Forgeline; return tokens, seconds and the mean loss."""
    from forgeline.tuning import tune

    losses = []
    splits = PROJECT / "data/splits"
    with tempfile.TemporaryDirectory() as folder:
        tuned = tune(
            settings(steps),
            splits / "train.jsonl",
            splits / "validation.jsonl",
            Path(folder),
            seed=SEED,
            root=PROJECT,
            log=lambda metrics, step: losses.append(metrics["loss"]) if "loss" in metrics else None,
        )
    return {"tokens": tuned.tokens, "seconds": tuned.seconds, "loss": statistics.mean(losses)}


def trl(steps: int) -> dict[str, float]:
    """Train with TRL, checkpointing and gradient checkpointing off, batches grouped by length."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from forgeline.models import load_base
    from forgeline.tuning.examples import read_examples

    train = settings(steps)
    base = load_base(train, PROJECT)
    path = PROJECT / "data/splits/train.jsonl"
    examples, _ = read_examples(path, base.tokenizer, train.max_examples, train.max_tokens, SEED)
    rows = [
        {"input_ids": e.prompt + e.completion, "completion_mask": [0] * len(e.prompt) + [1] * len(e.completion)}
        for e in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=base.model,
            processing_class=base.tokenizer,
            train_dataset=datasets.Dataset.from_list(rows),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=train.batch_size,
                num_train_epochs=1,
                learning_rate=train.learning_rate,
                bf16=base.model.dtype.itemsize == 2,
                use_cpu=base.device.type == "cpu",
                gradient_checkpointing=False,
                completion_only_loss=True,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=SEED,
            ),
            peft_config=LoraConfig(
                r=train.lora.rank,
                lora_alpha=train.lora.alpha,
                lora_dropout=train.lora.dropout,
                target_modules=train.lora.targets,
                task_type="CAUSAL_LM",
            ),
        )
        started = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - started
    return {"tokens": sum(map(len, examples)), "seconds": seconds, "loss": result.training_loss}


def main() -> None:
    """Run both in turn, or one of them as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="batches of 16 a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["forgeline", "trl"], help="run one trainer and print its figures as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({"forgeline": forgeline, "trl": trl}[arguments.only](arguments.steps)))
        return
    rates: dict[str, list[float]] = {"trl": [], "forgeline": []}
    for number in range(arguments.rounds):
        for name, measured in rates.items():
            command = [sys.executable, __file__, "--only", name, "--steps", str(arguments.steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout
            figures = json.loads(output.splitlines()[-1])
            measured.append(figures["tokens"] / figures["seconds"])
            line = f"round {number + 1}  {name:<9}  {measured[-1]:6.0f} tokens/s  mean loss {figures['loss']:.3f}"
            print(line, flush=True)
    ratios = [ours / theirs for ours, theirs in zip(rates["forgeline"], rates["trl"], strict=True)]
    print(
        f"median  trl {statistics.median(rates['trl']):.0f}  forgeline {statistics.median(rates['forgeline']):.0f}  "
        f"ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
