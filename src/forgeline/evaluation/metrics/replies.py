"""Metrics of how a reply came: whether it ended, how long it is, how fast it was.

What is measured by the clock compares on one machine under one load only.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import CorpusMetric, Mean, Table, with_ones


class StopRate(Mean):
    """The share of replies that ended by themselves, before the token limit. Statistics: ended, 1."""

    columns = ("stopped",)
    source = "Forgeline"

    def statistics(self, stopped: list[bool]) -> Table:
        """Return (ended, 1) for each reply."""
        return with_ones(stopped)


class Length(Mean):
    """The mean length of a reply in words, which models of any vocabulary share. Statistics: words, 1."""

    columns = ("predictions",)
    source = "Forgeline"
    better = None

    def statistics(self, predictions: list[str]) -> Table:
        """Return (words between spaces, 1) for each reply."""
        return with_ones(len(text.split()) for text in predictions)


class Latency(Mean):
    """The mean seconds from a question to its whole reply. Statistics: seconds, 1."""

    columns = ("waited",)
    source = "Forgeline"
    better = "lower"

    def statistics(self, waited: list[float]) -> Table:
        """Return (seconds, 1) for each reply."""
        return with_ones(waited)


class _LatencyQuantile(CorpusMetric):
    """The smallest seconds within which a share of the replies was there: numpy's quantile by `inverted_cdf`."""

    columns = ("waited",)
    source = "Hyndman and Fan, Sample quantiles in statistical packages, 1996, definition 1"
    better = "lower"
    share: ClassVar[float]

    def statistics(self, waited: list[float]) -> Table:
        """Return the seconds of each reply."""
        return np.asarray(waited, dtype=float)[:, None]

    def values(self, table: Table, draws: Table) -> Table:
        """Return the quantile of each resample."""
        order = table[:, 0].argsort()
        within = draws[:, order].cumsum(axis=1)
        enough = within >= self.share * within[:, -1:] - 1e-9  # 0.95 × 20 is 19, whatever the rounding
        seconds: Table = table[order, 0][enough.argmax(axis=1)]
        return seconds


class LatencyP50(_LatencyQuantile):
    """The seconds within which half of the replies were there. Statistics: seconds."""

    share = 0.5


class LatencyP95(_LatencyQuantile):
    """The seconds within which 95 % of the replies were there. Statistics: seconds."""

    share = 0.95


class LatencyP99(_LatencyQuantile):
    """The seconds within which 99 % of the replies were there. Statistics: seconds."""

    share = 0.99


class Throughput(Mean):
    """Reply tokens a second of computing, all replies together. Statistics: tokens, seconds."""

    columns = ("tokens", "seconds")
    source = "Forgeline"
    by_token = True

    def statistics(self, tokens: list[float], seconds: list[float]) -> Table:
        """Return (tokens, seconds) for each reply.

        Raises:
            EvaluationError: if nobody measured the time.
        """
        if not any(seconds):
            raise EvaluationError("throughput is tokens over seconds, and no reply took a measurable time.")
        return np.stack([tokens, seconds], axis=1)
