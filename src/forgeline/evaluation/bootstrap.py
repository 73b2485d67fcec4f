"""Confidence intervals by resampling examples (Efron, 1979; paired: Koehn, 2004)."""

from __future__ import annotations

from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from forgeline.data.bias.intervals import wilson
from forgeline.evaluation.metrics.corpus import CorpusMetric, Mean, Table
from forgeline.evaluation.permutation import exchange


class Estimate(BaseModel):
    """A corpus value, or a difference of two, with its interval over n examples."""

    model_config = ConfigDict(frozen=True)
    value: float
    low: float
    high: float
    n: int
    confidence: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Difference(Estimate):
    """A paired difference of two corpus values, and what could have been seen.

    `p` is the two-sided p-value of no difference at all. `detectable` is the smallest true difference whose
    interval leaves out zero with the configured power; an equal model is within a margin of that size as often.
    `better` is the metric's: the sign of an improvement.
    """

    p: float
    detectable: float
    better: Literal["higher", "lower"] | None


def interval(metric: CorpusMetric, table: Table, samples: int, confidence: float, seed: int) -> Estimate:
    """Return a metric's value and interval from its (examples × k) statistics.

    A share, of examples that each score 0 or 1, has Wilson's interval (1927): a resampled share of all or none
    would be certain of itself.
    """
    n, value = len(table), _whole(metric, table)
    if isinstance(metric, Mean) and np.isin(table[:, 0], (0, 1)).all() and (table[:, 1] == 1).all():
        low, high = wilson(value * n, n, confidence)
        return Estimate(value=value, low=min(low, value), high=max(high, value), n=n, confidence=confidence)
    return percentiles(value, metric.values(table, resamples(n, samples, seed)), n, confidence)


def paired_difference(
    metric: CorpusMetric, table: Table, other: Table, samples: int, confidence: float, seed: int, power: float = 0.8
) -> Difference:
    """Return the value of `table` − that of `other`, its interval and p-value; row i of both is the same example."""
    n, value = len(table), _whole(metric, table) - _whole(metric, other)
    draws = resamples(n, samples, seed)
    values = metric.values(table, draws) - metric.values(other, draws)
    normal = NormalDist()
    reach = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)  # in standard errors
    return Difference(
        **dict(percentiles(value, values, n, confidence)),
        p=exchange(metric, table, other, value, samples, seed),
        detectable=reach * float(values.std()),
        better=metric.better,
    )


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
