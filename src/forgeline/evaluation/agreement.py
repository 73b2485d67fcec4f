"""How far people agree, beyond what chance alone would do (Krippendorff's alpha for nominal values)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from forgeline.evaluation.bootstrap import Estimate, percentiles, resamples
from forgeline.evaluation.metrics.corpus import Table


def krippendorff(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Return Krippendorff's alpha (Computing Krippendorff's Alpha-Reliability, 2011) for nominal values.

    1 is perfect agreement, 0 that of chance. A unit holds the values that it was given, one for each person who
    judged it; a unit with fewer than two says nothing. None where nothing can be said: no such unit, or one value
    throughout.
    """
    value = _alpha(_counts(units).sum(axis=0, keepdims=True))[0]
    return None if np.isnan(value) else float(value)


def agreement(units: Mapping[str, Sequence[Hashable]], samples: int, confidence: float, seed: int) -> Estimate | None:
    """Return alpha with its interval, resampling the units that two or more people judged; None as above."""
    value = krippendorff([*units.values()])
    if value is None:
        return None
    table = _counts([*units.values()])
    drawn = _alpha(resamples(len(table), samples, seed) @ table)
    return percentiles(value, drawn[~np.isnan(drawn)], len(table), confidence)


def _counts(units: Sequence[Sequence[Hashable]]) -> Table:
    """Return for each unit of two or more values its agreeing pairs, and how often each value was given.

    Alpha follows from the columns' sums: a unit of m values has pairs of weight 1 / (m - 1).
    """
    values = {value: place for place, value in enumerate(dict.fromkeys(one for unit in units for one in unit))}
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    table = np.zeros((len(pairable), 1 + len(values)))
    for row, counts in zip(table, pairable, strict=True):
        row[0] = sum(count * (count - 1) for count in counts.values()) / (counts.total() - 1)
        for value, count in counts.items():
            row[1 + values[value]] = count
    return table


def _alpha(totals: Table) -> Table:
    """Return alpha for each row of totals; not a number where every value is the same."""
    same, given = totals[:, 0], totals[:, 1:]
    n = given.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: Table = 1 - (n - 1) * (n - same) / (n**2 - (given**2).sum(axis=1))
    return alpha
