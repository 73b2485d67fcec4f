"""Metrics of how a reply came: whether it ended, how long it is, how fast it was."""

from __future__ import annotations

from typing import Any

import numpy as np

from forgeline.evaluation.metrics.corpus import Mean, Table


class StopRate(Mean):
    """The share of replies that ended by themselves, before the token limit. Statistics: ended, 1."""

    columns = ("stopped",)
    source = "Forgeline"

    def statistics(self, stopped: list[bool]) -> Table:
        """Return (ended, 1) for each reply."""
        return _with_ones(stopped)


def _with_ones(values: list[Any]) -> Table:
    return np.stack([np.asarray(values, dtype=float), np.ones(len(values))], axis=1)
