"""Confidence intervals by resampling examples (Efron, 1979; paired: Koehn, 2004)."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from forgeline.evaluation.metrics.corpus import CorpusMetric, Table


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


def interval(metric: CorpusMetric, table: Table, samples: int, confidence: float, seed: int) -> Estimate:
    """Return a metric's value and interval from its (examples × k) statistics."""
    draws = resamples(len(table), samples, seed)
    return percentiles(_whole(metric, table), metric.values(table, draws), len(table), confidence)


def paired_difference(
    metric: CorpusMetric, table: Table, other: Table, samples: int, confidence: float, seed: int
) -> Estimate:
    """Return the value of `table` − that of `other`, and its interval; row i of both is the same example."""
    draws = resamples(len(table), samples, seed)
    values = metric.values(table, draws) - metric.values(other, draws)
    return percentiles(_whole(metric, table) - _whole(metric, other), values, len(table), confidence)


def resamples(n: int, samples: int, seed: int) -> Table:
    """Return (samples × n) counts of how often each example is drawn; the same for the same seed."""
    drawn = np.random.default_rng(seed).integers(n, size=(samples, n))
    places = drawn + np.arange(samples)[:, None] * n
    counts: Table = np.bincount(places.ravel(), minlength=samples * n).reshape(samples, n).astype(float)
    return counts


def percentiles(point: float, values: Table, n: int, confidence: float) -> Estimate:
    """Return a value with the interval that leaves out the same share of resampled `values` on both sides."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value=point, low=float(low), high=float(high), n=n, confidence=confidence)


def _whole(metric: CorpusMetric, table: Table) -> float:
    return float(metric.values(table, np.ones((1, len(table))))[0])
