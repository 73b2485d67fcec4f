"""LoRA on a GPU: a Llama-3.1-8B shape with random weights, sequences of 2,048, beside transformers' Trainer + peft.

Command, on a machine with a GPU of 80 GB or more: python benchmarks/gpu_training.py
Prints, each in a process of its own: tokens a second, the share of the measured bfloat16 matrix product rate
(4 FLOPs for each frozen weight a token, 6 for each trained one, attention and head), and peak memory, for
Forgeline's loop, for the best of Trainer's settings below, and for QLoRA. `--shape tiny --device cpu` shows
that it works where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent
SEED = 17
SHAPES = {
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
        "max_position_embeddings": 4096,
    },
}
# What Trainer lets one choose: each is tried, and the fastest that fits is compared with.
TRAINER_SETTINGS: dict[str, dict[str, object]] = {
    f"{rows} rows{', checkpointing' if checkpointing else ''}{', compiled' if compiled else ''}": {
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": checkpointing,
        "torch_compile": compiled,
    }
    for rows in (1, 2, 4, 8)
    for checkpointing in (False, True)
    for compiled in (False, True)
}


def saved_model(shape: str, folder: Path, device: str) -> Path:
    """Write a random model of a shape once, in bfloat16, and return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = folder / shape
    if not (path / "config.json").exists():
        torch.manual_seed(SEED)
        with torch.device(device):
            torch.set_default_dtype(torch.bfloat16)
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], tie_word_embeddings=False))
            torch.set_default_dtype(torch.float32)
        model.save_pretrained(path)
    return path


def loaded(path: Path, device: str, quantised: bool):
    """Load the random model, in 4 bits if asked."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {}
    if quantised:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, attn_implementation="sdpa", device_map=device, **options
    )


def sequences(vocabulary: int, rows: int, length: int) -> list[list[int]]:
    """Return random token sequences."""
    dice = random.Random(SEED)
    return [[dice.randrange(vocabulary) for _ in range(length)] for _ in range(rows)]


def forgeline(path: Path, given: argparse.Namespace, quantised: bool) -> dict[str, float]:
    """Train with Forgeline's loop; return the median step's tokens a second and the peak memory in GB."""
    from forgeline.config import load
    from forgeline.models import Example
    from forgeline.tuning.job import Job
    from forgeline.tuning.loop import Loop
    from forgeline.tuning.methods import trainable
    from forgeline.tuning.objective import Completions
    from forgeline.tuning.team import Team

    train = load(PROJECT).train.model_copy(
        update={
            "method": "qlora" if quantised else "lora",
            "batch_size": given.rows,
            "max_tokens": given.length,
            "epochs": 1,
            "checkpoint_steps": 10**6,
            "learning_rate": 1e-4,
        }
    )
    model = trainable(loaded(path, given.device, quantised), train, SEED, PROJECT)
    rows = sequences(model.config.vocab_size, given.rows * given.steps, given.length)
    examples = [Example(row[:1], row[1:]) for row in rows]
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        job = Job(config=train, train=path, validation=path, folder=Path(folder), seed=SEED, root=PROJECT)
        objective = Completions(model, examples, examples[:1])
        loop = Loop(objective, job, Team(), lambda metrics, step: rates.append(metrics.get("tokens_per_second")))
        loop.run()
    return {"rate": statistics.median([rate for rate in rates if rate][2:]), "memory": peak_memory(given.device)}


def trainer(path: Path, given: argparse.Namespace, variant: str) -> dict[str, float]:
    """Train with transformers' Trainer and peft; return the same."""
    import datasets
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from forgeline.config import load

    lora = load(PROJECT).train.lora
    model = loaded(path, given.device, quantised=False)
    model = get_peft_model(
        model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM")
    )
    model.enable_input_require_grads()
    options = TRAINER_SETTINGS[variant]
    at_once = int(str(options["per_device_train_batch_size"]))
    rows = sequences(model.config.vocab_size, at_once * given.steps, given.length)
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: object, **options: object) -> None:
            synchronise(given.device)
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            train_dataset=datasets.Dataset.from_dict({"input_ids": rows, "labels": rows}),
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                learning_rate=1e-4,
                bf16=True,
                use_cpu=given.device == "cpu",
                optim="adamw_torch_fused",
                gradient_checkpointing_kwargs={"use_reentrant": False},
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **options,  # type: ignore[arg-type]
            ),
            callbacks=[Clock()],
        ).train()
    seconds = statistics.median(later - earlier for earlier, later in pairwise(stamps[1:]))
    return {"rate": at_once * given.length / seconds, "memory": peak_memory(given.device)}


def synchronise(device: str) -> None:
    """Wait for the GPU."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str) -> float:
    """Return the most memory that was in use, in GB."""
    import resource

    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def product_rate(path: Path, given: argparse.Namespace, _: str) -> dict[str, float]:
    """Return the device's bfloat16 matrix product rate, and what a token counts for, in FLOPs."""
    import torch
    from transformers import AutoConfig

    from forgeline.config import load
    from forgeline.models.footprint import Shape

    size = 8192 if given.device == "cuda" else 512
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=given.device) for _ in range(2))
    times = []
    for _ in range(30):
        synchronise(given.device)
        started = time.perf_counter()
        one @ other
        synchronise(given.device)
        times.append(time.perf_counter() - started)
    shape = Shape.of(AutoConfig.from_pretrained(path))
    return {
        "rate": 2 * size**3 / statistics.median(times[5:]),
        "flops": shape.flops(load(PROJECT).train, given.length),
    }


CHILDREN = {
    "product": product_rate,
    "lora": lambda path, given, _: forgeline(path, given, quantised=False),
    "qlora": lambda path, given, _: forgeline(path, given, quantised=True),
    "trainer": trainer,
}


def measured(name: str, given: argparse.Namespace, variant: str = "") -> dict[str, float] | None:
    """Run one of the children; None if it does not fit."""
    command = [sys.executable, __file__, "--only", name, "--variant", variant, "--shape", given.shape]
    command += ["--device", given.device, "--rows", str(given.rows), "--steps", str(given.steps)]
    command += ["--length", str(given.length), "--folder", str(given.folder)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    if finished.returncode and "OutOfMemory" not in finished.stderr and "does not fit" not in finished.stderr:
        raise SystemExit(f"{name} {variant} failed:\n{finished.stderr[-3000:]}")
    figures: dict[str, float] | None = None if finished.returncode else json.loads(finished.stdout.splitlines()[-1])
    what = f"{figures['rate']:.4g}" if figures else "does not fit"
    print(f"{name} {variant}: {what}" + (f", {figures['memory']:.1f} GB" if figures and "memory" in figures else ""))
    return figures


def main() -> None:
    """Measure all in turn, or one as a child."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rows", type=int, default=4, help="sequences of one of Forgeline's steps")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "forgeline-gpu-training")
    parser.add_argument("--only", choices=CHILDREN)
    parser.add_argument("--variant", default="")
    given = parser.parse_args()
    path = saved_model(given.shape, given.folder, given.device)
    if given.only:
        print(json.dumps(CHILDREN[given.only](path, given, given.variant)))
        return
    product, lora, qlora = (measured(name, given) for name in ("product", "lora", "qlora"))
    slow = given.device == "cpu"  # where compiling takes minutes
    variants = [name for name, options in TRAINER_SETTINGS.items() if not (slow and options["torch_compile"])]
    tried = {variant: measured("trainer", given, variant) for variant in variants}
    fitting = {variant: figures for variant, figures in tried.items() if figures}
    if product is None or lora is None or qlora is None or not fitting:
        raise SystemExit("Something does not fit this GPU: lower --rows.")
    best = max(fitting, key=lambda variant: fitting[variant]["rate"])
    theirs = fitting[best]
    print(f"\nforgeline: {lora['rate']:.0f} tokens/s, {lora['rate'] * product['flops'] / product['rate']:.0%} ", end="")
    print(f"of {product['rate'] / 1e12:.0f} TFLOP/s, {lora['memory']:.1f} GB")
    print(f"Trainer ({best}): {theirs['rate']:.0f} tokens/s, {theirs['memory']:.1f} GB: ", end="")
    print(f"forgeline {lora['rate'] / theirs['rate']:.2f} × as fast, {lora['memory'] / theirs['memory']:.2f} × memory")
    print(f"QLoRA: {qlora['rate']:.0f} tokens/s, {qlora['memory'] / lora['memory']:.0%} of LoRA's memory")


if __name__ == "__main__":
    main()
