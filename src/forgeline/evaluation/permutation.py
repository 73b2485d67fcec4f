"""Whether two models differ at all: paired permutation tests, and what many of them at once are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forgeline.evaluation.metrics.corpus import CorpusMetric, Table

ROUNDING = 1e-9  # two sums of the same numbers in another order


def exchange(metric: CorpusMetric, table: Table, other: Table, observed: float, samples: int, seed: int) -> float:
    """Return the two-sided p-value of the `observed` difference, if it does not matter who gave which reply.

    Approximate randomisation (Noreen, 1989; Riezler & Maxwell, 2005): each example's rows change sides with
    probability 1/2. The observed assignment counts as one of the draws, so p is never 0.
    """
    kept = np.random.default_rng(seed).integers(2, size=(samples, len(table)), dtype=np.int8).astype(float)
    both = np.concatenate([table, other])
    mine = metric.values(both, np.concatenate([kept, 1 - kept], axis=1))
    theirs = metric.values(both, np.concatenate([1 - kept, kept], axis=1))
    as_large = np.abs(mine - theirs) >= abs(observed) - ROUNDING
    return float((1 + as_large.sum()) / (1 + samples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: of all that lie below α, one is wrong with probability at most α.

    Holm's step-down (1979): holds however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(each) for each in adjusted]
