"""Choose which records to learn from when the budget does not allow all of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from forgeline.records import Record


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """Return at most `limit` records in a seeded order: every key's most typical completion before any second.

    Several people answered the same prompt. Seeing more prompts teaches more than seeing one prompt's
    fifth answer, and the answer that shares most words with the others is the least noisy one: the
    consensus that minimum Bayes risk decoding seeks (Kumar and Byrne, 2004), taken over people.
    """
    order = random.Random(seed)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.key].append(record)
    ranked = [
        (rank, order.random(), record)
        for group in groups.values()
        for rank, record in enumerate(sorted(group, key=lambda record: -_typicality(record, group)))
    ]
    chosen = sorted(ranked, key=lambda entry: entry[:2])
    return [record for _, _, record in chosen[:limit]]


def _typicality(record: Record, group: Sequence[Record]) -> float:
    """Return the mean word overlap (F1) of a completion with all of its group's."""
    return sum(_overlap(record.completion, other.completion) for other in group) / len(group)


def _overlap(one: str, other: str) -> float:
    mine, theirs = set(one.lower().split()), set(other.lower().split())
    return 2 * len(mine & theirs) / (len(mine) + len(theirs))
