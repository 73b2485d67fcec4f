"""Training speed beside TRL's SFTTrainer: same examples, model, LoRA shape, precision, batch size and schedule.

Command: python benchmarks/training_speed.py
Each trainer runs in a process of its own, in turn, several rounds; medians are printed of real tokens a second
(padding does not count), the validation loss of both at the end, and the share of this machine's matrix
product rate that the counted arithmetic makes: 4 FLOPs for each frozen weight a token, 6 for each trained
one, attention, and the head where there is a label. TRL runs by the best of its settings below, tried first.
Its packing is not among them: without flash attention it lets examples see each other.
Needs `forgeline data` to have run.
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
SPLITS = PROJECT / "data/splits"
SEED = 17
# What TRL lets one choose for speed on a processor; gradient checkpointing is off in all.
TRL_SETTINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "by length": {"train_sampling_strategy": "group_by_length"},
    "by length, fused AdamW": {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"},
}


def settings(steps: int, dtype: str):
    """Return the shipped training settings, cut to a number of full batches."""
    from forgeline.config import load

    train = load(PROJECT, overrides=[f"train.dtype={dtype}"]).train
    budget = {"max_examples": steps * train.batch_size, "epochs": 1, "checkpoint_steps": 10**6, "validate_steps": None}
    return train.model_copy(update=budget)


def examples(train, base):
    """Return the training examples and the held-out ones."""
    from forgeline.tuning.examples import read_examples

    chosen, _ = read_examples(SPLITS / "train.jsonl", base.tokenizer, train.max_examples, train, SEED)
    held_out, _ = read_examples(SPLITS / "validation.jsonl", base.tokenizer, 200, train, SEED)
    return chosen, held_out


def forgeline(steps: int, dtype: str, _: str) -> dict[str, float]:
    """Train with Forgeline; return tokens, seconds and the validation loss."""
    from forgeline.tuning import tune

    with tempfile.TemporaryDirectory() as folder:
        data = SPLITS / "train.jsonl", SPLITS / "validation.jsonl"
        tuned = tune(
            settings(steps, dtype), *data, Path(folder), seed=SEED, root=PROJECT, log=lambda metrics, step: None
        )
    return {"tokens": tuned.tokens, "seconds": tuned.seconds, "loss": tuned.validation_loss}


def trl(steps: int, dtype: str, variant: str) -> dict[str, float]:
    """Train with TRL; return tokens, seconds and the validation loss, taken as Forgeline takes it."""
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from forgeline.models import load_base
    from forgeline.models.score import completion_losses

    train = settings(steps, dtype)
    base = load_base(train, PROJECT)
    chosen, held_out = examples(train, base)
    rows = [
        {"input_ids": e.prompt + e.completion, "completion_mask": [0] * len(e.prompt) + [1] * len(e.completion)}
        for e in chosen
    ]
    options = {"per_device_train_batch_size": train.batch_size, **TRL_SETTINGS[variant]}
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=base.model,
            processing_class=base.tokenizer,
            train_dataset=datasets.Dataset.from_list(rows),
            args=SFTConfig(
                output_dir=folder,
                num_train_epochs=1,
                learning_rate=train.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=round(steps * train.warmup),
                weight_decay=train.weight_decay,
                max_grad_norm=train.clip_norm,
                bf16=base.model.dtype.itemsize == 2,
                use_cpu=base.device.type == "cpu",
                gradient_checkpointing=False,
                completion_only_loss=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=SEED,
                **options,
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
        trainer.train()
        seconds = time.perf_counter() - started
    trainer.model.eval()
    losses = completion_losses(trainer.model, held_out)
    loss = sum(nats for nats, _ in losses) / sum(tokens for _, tokens in losses)
    return {"tokens": sum(map(len, chosen)), "seconds": seconds, "loss": loss}


def product_rate(dtype: str) -> float:
    """Return the FLOPs a second of this machine's best square matrix product, the median of several."""
    import torch

    best = 0.0
    for size in (1024, 2048):
        one, other = (torch.randn(size, size, dtype=getattr(torch, dtype)) for _ in range(2))
        times = []
        for _ in range(12):
            started = time.perf_counter()
            one @ other
            times.append(time.perf_counter() - started)
        best = max(best, 2 * size**3 / statistics.median(times[2:]))
    return best


def arithmetic(steps: int, dtype: str) -> tuple[float, str]:
    """Return the FLOPs that a real token counts for, and the precision that `auto` chose here."""
    from forgeline.models import load_base
    from forgeline.models.footprint import Shape

    train = settings(steps, dtype)
    base = load_base(train, PROJECT)
    chosen, _ = examples(train, base)
    tokens = sum(map(len, chosen))
    labelled = sum(len(example.completion) for example in chosen) / tokens
    context = sum(len(example) ** 2 for example in chosen) / tokens
    return Shape.of(base.model.config).flops(train, context, labelled), str(base.model.dtype).removeprefix("torch.")


def measured(name: str, steps: int, dtype: str, variant: str) -> dict[str, float]:
    """Run one trainer in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--steps", str(steps), "--dtype", dtype, "--variant", variant]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout
    figures = json.loads(output.splitlines()[-1])
    return {**figures, "rate": figures["tokens"] / figures["seconds"]}


def main() -> None:
    """Run both in turn, or one of them as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="batches a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--only", choices=["forgeline", "trl"], help="run one trainer and print its figures as JSON")
    parser.add_argument("--variant", choices=[*TRL_SETTINGS], default="by length")
    given = parser.parse_args()
    if given.only:
        print(json.dumps({"forgeline": forgeline, "trl": trl}[given.only](given.steps, given.dtype, given.variant)))
        return
    flops, dtype = arithmetic(given.steps, given.dtype)
    tried = {variant: measured("trl", 6, given.dtype, variant)["rate"] for variant in TRL_SETTINGS}
    print("TRL, 6 steps:  " + ";  ".join(f"{variant} {rate:.0f} tokens/s" for variant, rate in tried.items()))
    variant = max(tried, key=tried.__getitem__)
    found: dict[str, list[dict[str, float]]] = {"trl": [], "forgeline": []}
    peaks: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for number in range(given.rounds):
        for name, runs in found.items():
            runs.append(measured(name, given.steps, given.dtype, variant))
            print(
                f"round {number + 1}  {name:<9}  {runs[-1]['rate']:6.0f} tokens/s  "
                f"validation loss {runs[-1]['loss']:.4f}",
                flush=True,
            )
        for precision, rates in peaks.items():
            rates.append(product_rate(precision))
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in zip(found["forgeline"], found["trl"], strict=True)]
    median = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    ours, theirs = median["forgeline"], median["trl"]
    print(f"{dtype}: trl ({variant}) {theirs['rate']:.0f}, forgeline {ours['rate']:.0f} tokens/s, ", end="")
    print(f"ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")
    print(f"validation loss: trl {theirs['loss']:.4f}, forgeline {ours['loss']:.4f} ", end="")
    print(f"({ours['loss'] / theirs['loss'] - 1:+.1%})")
    for precision, rates in peaks.items():
        peak = statistics.median(rates)
        share = flops * ours["rate"] / peak
        print(
            f"{flops / 1e6:.0f} MFLOPs a token: {share:.0%} of {peak / 1e9:.0f} GFLOP/s, the {precision} product rate"
        )


if __name__ == "__main__":
    main()
