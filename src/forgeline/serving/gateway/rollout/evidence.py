"""Whether a challenger is worse than what is live: a test that may be looked at after every request.

Each measure is a fault that a reply has or has not. That a fault is likelier at the challenger, by more than a margin,
is told by an e-value: a number that is 1 on average, at most, as long as that is not so, however long and often one
looks. The chance that it ever reaches 1/alpha is then alpha at most (Ville, 1939). The mean of e-values is one too, so
that all measures together are one test (Vovk & Wang, "E-values: calibration, combination and applications", 2021).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WAITING = 64  # outcomes of an arm that wait for those of the other; older ones are let go
BLOCK = 20  # the most outcomes of one arm against one of the other
PRIOR = 0.18  # of the Beta prior of a rate, by which the bet regrets least (Turner, Ly & Grünwald, 2024)
HALVINGS = 30  # of the interval in which the nearest rates within the margin are sought
TIMES = ("first", "pace")
QUANTILES = (0.5, 0.75, 0.9)  # of the latencies of what is live: what is slower is slow
BASELINE = 50  # latencies of what is live that tell these
MOST = 500.0  # of an e-value's logarithm, lest its value be no number


@dataclass(frozen=True)
class Outcome:
    """What became of a request; None where that cannot be said.

    `first` is how many seconds the engine took to its first token, `pace` from one to the next. Of a caller who `left`
    before the first token, `first` is how long it took at least.
    """

    error: bool | None = None
    guard: bool | None = None
    thumb: bool | None = None
    first: float | None = None
    pace: float | None = None
    left: bool = False


class Comparison:
    """The e-value against: a fault is no likelier at the challenger than where it is live, or by `margin` at most.

    Outcomes are taken in blocks, as many of each arm as come of it. A block multiplies the e-value by how much likelier
    it is at the two rates seen before than at the nearest two that are within the margin. Where the challenger looked
    no worse before, nothing is bet.

    Source: Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
    stopping", 2024; with a margin: Turner & Grünwald, "Exact anytime-valid confidence intervals for contingency tables
    and beyond", 2023. Its expectation falls with the rate of what is live and grows with the challenger's, so that it
    is at most 1 for every pair of rates within the margin.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin
        self.log = 0.0
        self._seen = ([0, 0], [0, 0])  # faults and outcomes of what is live, and of the challenger
        self._waiting = (deque[bool](maxlen=WAITING), deque[bool](maxlen=WAITING))
        self._bet_on = ([0, 0], [0, 0])  # of those seen, what blocks were made of

    def add(self, challenger: bool, fault: bool) -> None:
        """Take an outcome in."""
        seen, waiting = self._seen[challenger], self._waiting
        seen[0] += fault
        seen[1] += 1
        waiting[challenger].append(fault)
        live, tried = self._sizes()
        while len(waiting[0]) >= live and len(waiting[1]) >= tried:
            faults = [sum(arm.popleft() for _ in range(size)) for arm, size in zip(waiting, (live, tried), strict=True)]
            self._bet((faults[0], live), (faults[1], tried))

    def shown(self) -> dict[str, Any]:
        """Return the faults and outcomes of both arms, and the e-value."""
        (live, of_live), (tried, of_tried) = self._seen
        return {"live": [live, of_live], "challenger": [tried, of_tried], "e_value": math.exp(min(self.log, MOST))}

    def _sizes(self) -> tuple[int, int]:
        """Return how many outcomes of each arm make a block, by how many came of each, whatever they were."""
        live, tried = (max(1, outcomes) for _, outcomes in self._seen)
        return min(BLOCK, max(1, round(live / tried))), min(BLOCK, max(1, round(tried / live)))

    def _bet(self, live: tuple[int, int], tried: tuple[int, int]) -> None:
        """Multiply the e-value by that of a block, faults and outcomes of each arm, and let the rates know of it."""
        low, high = ((faults + PRIOR) / (outcomes + 2 * PRIOR) for faults, outcomes in self._bet_on)
        if high - low > self.margin:
            null = nearest(low, high, live[1], tried[1], self.margin)
            self.log += likelihood(*live, low, null) + likelihood(*tried, high, null + self.margin)
        for used, block in zip(self._bet_on, (live, tried), strict=True):
            used[0] += block[0]
            used[1] += block[1]


class Slowness:
    """The e-value against: the challenger is no slower; the mean of those for several thresholds.

    The thresholds are quantiles of the latencies of what is live, known before any that they judge: those given, or the
    first that come.
    """

    def __init__(self, margin: float, known: Iterable[float]) -> None:
        self._margin = margin
        self._known = list(known)
        self._parts: list[tuple[float, Comparison]] = []
        self._fix()

    def add(self, challenger: bool, seconds: float, at_least: bool) -> None:
        """Take a latency in, or what it was at least: that says nothing of thresholds above it."""
        for threshold, comparison in self._parts:
            if seconds > threshold or not at_least:
                comparison.add(challenger, seconds > threshold)
        if not (self._parts or challenger or at_least):
            self._known.append(seconds)
            self._fix()

    @property
    def log(self) -> float:
        """The e-value's logarithm."""
        return _mean([comparison.log for _, comparison in self._parts]) if self._parts else 0.0

    def shown(self) -> dict[str, Any]:
        """Return what is slower than the highest threshold, of both arms, and the e-value of all."""
        if not self._parts:
            return {"live": [0, 0], "challenger": [0, 0], "e_value": 1.0, "slower_than": None}
        threshold, comparison = self._parts[-1]
        return {**comparison.shown(), "e_value": math.exp(min(self.log, MOST)), "slower_than": threshold}

    def _fix(self) -> None:
        if len(self._known) >= BASELINE:
            ranked = sorted(self._known)
            places = (math.ceil(quantile * len(ranked)) - 1 for quantile in QUANTILES)
            self._parts = [(ranked[place], Comparison(self._margin)) for place in places]


class Evidence:
    """What speaks against a challenger; `margins` has the measures that count, `latencies` those of what is live."""

    def __init__(self, margins: Mapping[str, float], alpha: float, latencies: Mapping[str, Sequence[float]]) -> None:
        self._limit = -math.log(alpha)
        self._measures: dict[str, Comparison | Slowness] = {
            name: Slowness(margin, latencies.get(name, ())) if name in TIMES else Comparison(margin)
            for name, margin in margins.items()
        }

    def add(self, challenger: bool, outcome: Outcome) -> None:
        """Take in what became of a request."""
        for name, measure in self._measures.items():
            value = getattr(outcome, name)
            if value is None:
                continue
            if isinstance(measure, Slowness):
                measure.add(challenger, value, outcome.left)
            else:
                measure.add(challenger, value)

    @property
    def log(self) -> float:
        """The logarithm of the e-value of all measures."""
        return _mean([measure.log for measure in self._measures.values()])

    @property
    def worse(self) -> str | None:
        """The measure by which the challenger is worse, beyond doubt; None as long as there is any."""
        if self.log < self._limit:
            return None
        return max(self._measures, key=lambda name: self._measures[name].log)

    def shown(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        measures = {name: measure.shown() for name, measure in self._measures.items()}
        return {"e_value": math.exp(min(self.log, MOST)), "limit": math.exp(self._limit), "measures": measures}


def nearest(live_rate: float, tried_rate: float, live: int, tried: int, margin: float) -> float:
    """Return the rate of what is live at which it and rate + margin are the nearest to the two given, in likelihood."""
    if margin == 0:
        return (live * live_rate + tried * tried_rate) / (live + tried)
    low, high = live_rate, tried_rate - margin  # the divergence falls at the one end, and grows at the other
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        other = middle + margin
        slope = live * (middle - live_rate) / (middle * (1 - middle))
        slope += tried * (other - tried_rate) / (other * (1 - other))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low + high) / 2


def likelihood(faults: int, outcomes: int, rate: float, null: float) -> float:
    """Return the logarithm of how much likelier so many faults are at one rate than at another."""
    return faults * math.log(rate / null) + (outcomes - faults) * math.log((1 - rate) / (1 - null))


def _mean(logs: Sequence[float]) -> float:
    """Return the logarithm of the mean of the values whose logarithms are given."""
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))
