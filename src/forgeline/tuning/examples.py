"""From the training split to batches that waste no compute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgeline.errors import TuningError
from forgeline.models import Example, encode_example
from forgeline.records import read_records
from forgeline.tuning.sample import sample

# Batches are cut from pools of this many batches, sorted by length: little padding, still random.
POOL = 16


def read_examples(
    path: Path, tokenizer: Any, limit: int | None, max_tokens: int, seed: int
) -> tuple[list[Example], list[str]]:
    """Return a seeded sample of a split as tokenised examples, and the ids of their records.

    Raises:
        TuningError: if no record is left that fits `max_tokens`.
    """
    records = sample(read_records(path), limit, seed)
    examples = {record.id: encode_example(tokenizer, record) for record in records}
    fitting = {name: example for name, example in examples.items() if len(example) <= max_tokens}
    if not fitting:
        raise TuningError(
            f"{path}: none of {len(records)} records fits train.max_tokens={max_tokens}; raise it or shorten them."
        )
    return list(fitting.values()), list(fitting)


def batches(examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[Example]]:
    """Return one epoch's batches: the same for the same seed and epoch, of similar length within a batch."""
    order = random.Random(f"{seed}/{epoch}")
    shuffled = order.sample(examples, len(examples))
    cut = []
    for start in range(0, len(shuffled), batch_size * POOL):
        pool = sorted(shuffled[start : start + batch_size * POOL], key=len)
        cut += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    order.shuffle(cut)
    return cut
