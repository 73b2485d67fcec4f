"""When to stop: a loss that is no number or climbs away, or a validation loss that no longer falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

WINDOW = 5  # steps over which the loss is averaged
RISE = 1.0  # nats above the best average, and half as much again: no batch is that much harder than others


def best(losses: Sequence[float]) -> int:
    """Return after how many steps the weights were at their best, by the lowest average loss."""
    averages = _averages(losses)
    return WINDOW + averages.index(min(averages)) - 1 if averages else 0


def diverged(losses: Sequence[float]) -> int | None:
    """Return after how many steps the weights were still good, if training has diverged; else None."""
    if not math.isfinite(losses[-1]):
        return max(0, len(losses) - 2)  # the loss is that of the weights one step earlier
    averages = _averages(losses)
    if not averages or averages[-1] <= min(averages) + max(RISE, min(averages) / 2):
        return None
    return best(losses)


def _averages(losses: Sequence[float]) -> list[float]:
    return [fmean(losses[end - WINDOW : end]) for end in range(WINDOW, len(losses) + 1)]


def exhausted(validation: Sequence[float], patience: int | None) -> bool:
    """Say whether the last `patience` validation losses all failed to beat the best before them."""
    if patience is None or len(validation) <= patience:
        return False
    return min(validation[-patience:]) >= min(validation[:-patience])
