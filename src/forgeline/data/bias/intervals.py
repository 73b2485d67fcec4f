"""Intervals of shares and means, of one sample and of the difference between two; rows may have weights."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

SMALL = 30  # rows below which a difference is not worth a conclusion

Interval = tuple[float, float]
Row = dict[str, Any]


class Moments(NamedTuple):
    """Sums over rows of weight w and value x: how many, and of w, w², wx and wx². Sums of parts add up."""

    rows: float
    weight: float
    square: float
    total: float
    squares: float

    @property
    def n(self) -> float:
        """The effective number of rows (Kish, 1965); without weights, their number."""
        return self.weight**2 / self.square if self.square else 0.0

    @property
    def mean(self) -> float:
        """The weighted mean."""
        return self.total / self.weight

    @property
    def variance(self) -> float:
        """The unbiased variance; of fewer than two rows, infinite."""
        if self.n <= 1:
            return math.inf
        return max(0.0, self.squares / self.weight - self.mean**2) * self.n / (self.n - 1)


def moments(values: NDArray[numpy.float64], weights: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Return the five sums of `Moments` over rows."""
    total = weights * values
    squares = (weights * weights).sum(), (total * values).sum()
    return numpy.array([len(values), weights.sum(), squares[0], total.sum(), squares[1]])


def wilson(successes: float, n: float, confidence: float) -> Interval:
    """Return the Wilson score interval (1927) of a proportion; (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def newcombe(successes: tuple[float, float], n: tuple[float, float], confidence: float) -> Interval:
    """Return Newcombe's hybrid score interval (1998, method 10) of the difference of two proportions."""
    (one, other), (size, rest) = successes, n
    (low, high), (low_rest, high_rest) = wilson(one, size, confidence), wilson(other, rest, confidence)
    share, share_rest = one / size, other / rest
    difference = share - share_rest
    return (
        difference - math.hypot(share - low, high_rest - share_rest),
        difference + math.hypot(high - share, share_rest - low_rest),
    )


def student(sample: Moments, confidence: float) -> Interval:
    """Return the t interval of a mean."""
    if not math.isfinite(sample.variance):
        return -math.inf, math.inf
    half = _t(sample.n - 1, confidence) * math.sqrt(sample.variance / sample.n)
    return sample.mean - half, sample.mean + half


def welch(one: Moments, other: Moments, confidence: float) -> Interval:
    """Return Welch's interval (1947) of the difference of two means."""
    if not math.isfinite(one.variance) or not math.isfinite(other.variance):
        return -math.inf, math.inf
    first, second = one.variance / one.n, other.variance / other.n
    difference = one.mean - other.mean
    if first + second == 0:
        return difference, difference
    freedom = (first + second) ** 2 / (first**2 / (one.n - 1) + second**2 / (other.n - 1))
    half = _t(freedom, confidence) * math.sqrt(first + second)
    return difference - half, difference + half


def compare_shares(one: Moments, other: Moments, confidence: float) -> Row:
    """Return two shares (values are 0 or 1), their difference with its interval, and a verdict."""
    if not one.rows or not other.rows:
        return _nothing("share")
    successes = one.mean * one.n, other.mean * other.n
    return _compared("share", one, other, newcombe(successes, (one.n, other.n), confidence))


def compare_means(one: Moments, other: Moments, confidence: float) -> Row:
    """Return two means, their difference with its interval, and a verdict."""
    if not one.rows or not other.rows:
        return _nothing("mean")
    return _compared("mean", one, other, welch(one, other, confidence))


def rounded(value: float) -> float | None:
    """Return a figure as reports have it; None for what is not finite."""
    return round(float(value), 5) + 0.0 if math.isfinite(value) else None  # no negative zero


def shown(row: Row) -> bool:
    """Say whether a comparison shows a difference, by enough rows."""
    return bool(row["verdict"] in {"more", "less"})


def side(low: float, high: float) -> int:
    """Return on which side of zero an interval lies, 1 or -1, as far as a report's digits tell; else 0."""
    return int(round(low, 5) > 0) - int(round(high, 5) < 0)


def _compared(kind: str, one: Moments, other: Moments, interval: Interval) -> Row:
    low, high = interval
    verdict = ("no difference shown", "more", "less")[side(low, high)]
    if min(one.rows, other.rows) < SMALL:
        verdict = "too few to conclude from"
    figures = {kind: one.mean, "rest": other.mean, "difference": one.mean - other.mean, "low": low, "high": high}
    return {**{name: rounded(value) for name, value in figures.items()}, "verdict": verdict}


def _nothing(kind: str) -> Row:
    return {**dict.fromkeys((kind, "rest", "difference", "low", "high")), "verdict": "nothing to compare"}


def _t(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))
