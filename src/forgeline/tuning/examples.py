"""From the training split to batches that waste no compute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgeline.config.schema import Train
from forgeline.errors import TuningError
from forgeline.models import Example, encode_example
from forgeline.records import read_records
from forgeline.sample import sample

# Batches are cut from pools of this many batches, sorted by length: little padding, still random.
POOL = 16


def read_examples(
    path: Path, tokenizer: Any, limit: int | None, config: Train, seed: int
) -> tuple[list[Example], list[str]]:
    """Return a seeded sample of a split as tokenised examples, and the ids of their records.

    Replies that people disliked are not learned from.

    Raises:
        TuningError: if the split is empty, or records are longer than `max_tokens` and not to be dropped.
    """
    found = read_records(path)
    records = sample([record for record in found if record.label is not False], limit, seed)
    if disliked := sum(record.label is False for record in found):
        print(f"{path}: {disliked} replies that people disliked are left out")
    if not records:
        raise TuningError(
            f"{path} holds no records: raise split.{path.stem} in configs/data.yaml, or add data, and run again."
        )
    examples = {record.id: encode_example(tokenizer, record) for record in records}
    fitting = {name: example for name, example in examples.items() if len(example) <= config.max_tokens}
    if len(fitting) < len(examples) and (config.overlong == "stop" or not fitting):
        longest = max(map(len, examples.values()))
        raise TuningError(
            f"{path}: {len(examples) - len(fitting)} of {len(examples)} records are longer than "
            f"train.max_tokens={config.max_tokens} (the longest has {longest}): raise it as far as the model's "
            "context allows, or set train.overlong=drop to leave them out."
        )
    if len(fitting) < len(examples):
        print(f"{path}: {len(examples) - len(fitting)} records longer than train.max_tokens are left out")
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
