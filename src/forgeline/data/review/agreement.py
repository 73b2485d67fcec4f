"""How far two people agree who judged the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple


class Agreement(NamedTuple):
    """How often two people gave the same verdict on `rows` rows, as a share, and Cohen's kappa.

    `low` and `high` are the share's Wilson interval at 95 %. Kappa (Cohen, 1960) is None where chance
    alone would make them agree every time.
    """

    first: str
    second: str
    rows: int
    agreed: float
    low: float
    high: float
    kappa: float | None


def agreement(verdicts: Mapping[str, Mapping[str, str]]) -> list[Agreement]:
    """Return the agreement of each two people on the rows that both judged.

    `verdicts` holds each row's verdict by person.
    """
    pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for views in verdicts.values():
        for first, second in combinations(sorted(views), 2):
            pairs.setdefault((first, second), Counter())[views[first], views[second]] += 1
    return [_of(first, second, counts) for (first, second), counts in sorted(pairs.items())]


def _of(first: str, second: str, counts: Counter[tuple[str, str]]) -> Agreement:
    from forgeline.data.bias.intervals import wilson

    rows = counts.total()
    same = sum(count for (one, other), count in counts.items() if one == other)
    agreed = same / rows
    ones, others = Counter[str](), Counter[str]()
    for (one, other), count in counts.items():
        ones[one] += count
        others[other] += count
    chance = sum(ones[verdict] * others[verdict] for verdict in ones) / rows**2
    kappa = None if chance == 1 else (agreed - chance) / (1 - chance)
    return Agreement(first, second, rows, agreed, *wilson(same, rows, 0.95), kappa)
