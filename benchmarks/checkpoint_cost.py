"""What checkpoints cost: the share of training time that goes into writing them, as often as shipped.

Command: python benchmarks/checkpoint_cost.py
Trains the shipped model by the shipped settings for some steps and times each snapshot and each write,
flushed to the disk, beside the steps themselves. Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parent.parent
SPLITS = PROJECT / "data/splits"


def main() -> None:
    """Train, and print the time of steps and checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    from forgeline.config import load
    from forgeline.tuning import tune
    from forgeline.tuning.loop import Loop

    writes: list[float] = []
    save = Loop._save

    def timed(loop: Loop) -> None:
        started = time.perf_counter()
        save(loop)
        writes.append(time.perf_counter() - started)

    Loop._save = timed  # type: ignore[method-assign]
    train = load(PROJECT).train
    train = train.model_copy(update={"max_examples": given.steps * train.batch_size, "epochs": 1})
    with tempfile.TemporaryDirectory() as folder:
        data = SPLITS / "train.jsonl", SPLITS / "validation.jsonl"
        tuned = tune(train, *data, Path(folder), seed=17, root=PROJECT, log=lambda metrics, step: None)
    every = tuned.seconds / tuned.steps * train.checkpoint_steps
    print(
        f"{tuned.steps} steps in {tuned.seconds:.1f} s; {len(writes)} checkpoints of {statistics.median(writes):.2f} s"
    )
    print(f"a checkpoint every {train.checkpoint_steps} steps is {statistics.median(writes) / every:.2%} of the time")


if __name__ == "__main__":
    main()
