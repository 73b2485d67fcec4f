"""Confidence intervals by resampling examples (Efron, 1979; paired: Koehn, 2004)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Table = NDArray[np.float64]
Value = Callable[[Table], float]


class Estimate(BaseModel):
    """A corpus value, or a difference of two, with its percentile interval over n examples."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float
    n: int
    confidence: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(table: Table, value: Value, samples: int, confidence: float, seed: int) -> Estimate:
    """Return a metric's value and interval from its (examples × k) statistics."""
    values = [value(totals) for totals in _resample(table, samples, seed)]
    return _estimate(value(table.sum(axis=0)), values, len(table), confidence)


def paired_difference(table: Table, other: Table, value: Value, samples: int, confidence: float, seed: int) -> Estimate:
    """Return value(table) − value(other) and its interval; row i of both tables is the same example."""
    pairs = zip(_resample(table, samples, seed), _resample(other, samples, seed), strict=True)
    values = [value(mine) - value(theirs) for mine, theirs in pairs]
    return _estimate(value(table.sum(axis=0)) - value(other.sum(axis=0)), values, len(table), confidence)


def _resample(table: Table, samples: int, seed: int) -> Table:
    """Return (samples × k) column sums of tables drawn with replacement; the same draw for the same seed."""
    draws = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), samples)
    totals: Table = draws.astype(float) @ table
    return totals


def _estimate(point: float, values: list[float], n: int, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value=point, low=float(low), high=float(high), n=n, confidence=confidence)
