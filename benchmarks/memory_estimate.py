"""The estimated peak memory of training beside the measured one, on this machine's processor.

Command: python benchmarks/memory_estimate.py
Each setting trains a few steps of the shipped data in a process of its own. Measured is how far its
resident memory grows, at the peak, from when the libraries are loaded; estimated is what the training
loop is told. Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent
SEED = 17
SETTINGS = [("lora", dtype, rows) for dtype in ("float32", "bfloat16") for rows in (4, 16, 32)]
SETTINGS += [("full", "float32", 16), ("full", "bfloat16", 16)]


def measure(method: str, dtype: str, rows: int, steps: int) -> dict[str, float]:
    """Train in this process; return the bytes estimated and measured."""
    import peft  # noqa: F401
    import psutil
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from forgeline.config import load
    from forgeline.models import base_folder
    from forgeline.models.footprint import Batch, Shape, training_memory
    from forgeline.models.prefix import shared_prefix
    from forgeline.records import read_records, write_jsonl
    from forgeline.tuning import tune
    from forgeline.tuning.examples import read_examples

    overrides = {"method": method, "dtype": dtype, "batch_size": rows, "max_examples": steps * rows, "device": "cpu"}
    config = load(PROJECT, overrides=[f"train.{key}={value}" for key, value in overrides.items()]).train
    base, train = base_folder(config.model, PROJECT), PROJECT / "data/splits/train.jsonl"
    examples, _ = read_examples(train, AutoTokenizer.from_pretrained(base), config.max_examples, config, SEED)
    batch = Batch.of([len(each) for each in examples], rows, shared_prefix([each.prompt for each in examples]))
    estimated = training_memory(Shape.of(AutoConfig.from_pretrained(base)), config, batch, "cpu", dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held_out = read_records(PROJECT / "data/splits/validation.jsonl")[:4]
        write_jsonl(folder / "validation.jsonl", [record.model_dump(mode="json") for record in held_out])
        before = psutil.Process().memory_info().rss
        tune(config, train, folder / "validation.jsonl", folder / "run", seed=SEED, root=PROJECT, log=lambda *_: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"estimated": estimated.total, "measured": peak - before, "tokens": batch.tokens, "longest": batch.longest}


def main() -> None:
    """Run every setting as a child, or one of them as such."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", nargs=3, metavar=("METHOD", "DTYPE", "ROWS"), help="one setting, as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        method, dtype, rows = arguments.only
        print(json.dumps(measure(method, dtype, int(rows), arguments.steps)))
        return
    for setting in SETTINGS:
        command = [sys.executable, __file__, "--steps", str(arguments.steps), "--only", *map(str, setting)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout
        found = json.loads(output.splitlines()[-1])
        method, dtype, rows = setting
        print(
            f"{method:<5} {dtype:<9} batch {rows:>2}, {found['tokens']:>5} tokens  estimated "
            f"{found['estimated'] / 1e9:5.2f} GB  measured {found['measured'] / 1e9:5.2f} GB  "
            f"{found['estimated'] / found['measured'] - 1:+.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
