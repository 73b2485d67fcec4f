"""What would change a verdict: how much better, how many more examples, which command, who."""

from __future__ import annotations

import math
from typing import NamedTuple

from forgeline.evaluation.bootstrap import Estimate


class Bounds(NamedTuple):
    """The values that pass, both ends included."""

    min: float | None
    max: float | None

    def __str__(self) -> str:
        limits = [("at least", self.min), ("at most", self.max)]
        return " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)

    def slack(self, low: float, high: float) -> float:
        """Return how far within the bounds an interval lies; negative: how far it reaches beyond."""
        return min(self._gaps(low, high))

    def overlap(self, low: float, high: float) -> bool:
        """Say whether any of an interval is within the bounds."""
        return (self.min is None or high >= self.min) and (self.max is None or low <= self.max)

    def nearest(self, low: float, high: float) -> tuple[float, str]:
        """Return the bound with the least slack, and the word for what would be better there."""
        bounds = [(self.min, "higher"), (self.max, "lower")]
        given = [(bound, word) for bound, word in bounds if bound is not None]
        return given[self._gaps(low, high).index(self.slack(low, high))]

    def _gaps(self, low: float, high: float) -> list[float]:
        below = [] if self.min is None else [low - self.min]
        return below + ([] if self.max is None else [self.max - high])


def number(found: float, bounds: Bounds) -> str:
    """Return what would change the verdict on a number without an interval."""
    slack = bounds.slack(found, found)
    _, word = bounds.nearest(found, found)
    return _kept(slack, word) if slack >= 0 else f"it must be {-slack:.3g} {word}"


def told(found: Estimate, bounds: Bounds) -> str:
    """Return an estimate in as many decimals, two or more, as tell whether all of it is within the bounds."""
    within = bounds.slack(found.low, found.high) >= 0
    for decimals in range(2, 8):
        if within == (bounds.slack(round(found.low, decimals), round(found.high, decimals)) >= 0):
            break
    return f"{found.value:.{decimals}f} [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"


def estimate(found: Estimate, bounds: Bounds, again: str) -> str:
    """Return what would change the verdict on an interval.

    While the value itself is within the bounds, more examples shrink the interval towards it: its half-width goes
    with the root of their number, so n × (half-width / distance to the bound)² of them are enough.
    """
    slack = bounds.slack(found.low, found.high)
    bound, word = bounds.nearest(found.low, found.high)
    if slack >= 0:
        return _kept(slack, word)
    better = f"the model must be {-slack:.3g} {word}"
    distance = found.value - bound if word == "higher" else bound - found.value
    if distance <= 0:
        return f"{better}; more examples do not help, for the value itself is out of bounds"
    half = found.value - found.low if word == "higher" else found.high - found.value
    needed = math.ceil(found.n * (half / distance) ** 2)
    return f"{better}, or, if the value stays, it takes about {needed:,} examples, not {found.n:,}{again}"


def _kept(slack: float, word: str) -> str:
    return f"it passes until it is {slack:.3g} {'lower' if word == 'higher' else 'higher'}"
