"""Metrics of how likely a model finds what people wrote."""

from __future__ import annotations

import math

import numpy as np

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import CorpusMetric, Table


class Perplexity(CorpusMetric):
    """Token-weighted perplexity of the accepted completions under the model.

    The exponential of the summed loss of all completion tokens over their number, so a long
    completion counts for its length. Statistics: loss in nats, tokens.
    """

    columns = ("nats", "scored_tokens")
    source = "Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977"
    better = "lower"
    by_token = True

    def statistics(self, nats: list[float], scored_tokens: list[float]) -> Table:
        """Return (loss in nats, tokens) for each completion.

        Raises:
            EvaluationError: if there is no token.
        """
        if not any(scored_tokens):
            raise EvaluationError("perplexity is an average over tokens, and no completion has one.")
        return np.stack([nats, scored_tokens], axis=1)

    @staticmethod
    def value(totals: Table) -> float:
        """Return exp(loss / tokens)."""
        return math.exp(totals[0] / totals[1])

    def values(self, table: Table, draws: Table) -> Table:
        """Return the value of each resample, all at once."""
        totals = draws @ table
        values: Table = np.exp(totals[:, 0] / totals[:, 1])
        return values
