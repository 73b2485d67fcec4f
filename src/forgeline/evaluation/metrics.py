"""Corpus metrics as `evaluate.Metric` subclasses, built from per-example statistics.

The corpus value of each metric is a function of the column sums of an (examples × k) table of
sufficient statistics. Whoever keeps that table can resample it, so intervals and paired
comparisons cost no second scoring. They are instantiated directly: `evaluate.load` downloads code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF

from forgeline.models import Example, LanguageModel
from forgeline.models.score import completion_losses

Table = NDArray[np.float64]


class CorpusMetric(evaluate.Metric):
    """A metric whose `compute` returns its corpus value under its name, and its `statistics` table."""

    columns: ClassVar[dict[str, Any]]
    source: ClassVar[str]
    statistics: Callable[..., Table]  # one row of sufficient statistics an example
    value: Callable[[Table], float]  # the corpus value for the column sums of such a table

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__, citation=self.source, features=datasets.Features(self.columns)
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        table = self.statistics(**columns)
        return {self.name: self.value(table.sum(axis=0)), "statistics": table.tolist()}


TOKENS = datasets.Sequence(datasets.Value("int64"))
TEXT = datasets.Value("string")
REPLIES = {"predictions": TEXT, "references": datasets.Sequence(TEXT)}


class Perplexity(CorpusMetric):
    """Token-weighted perplexity of completions under the model in hand; input is token ids.

    The exponential of the summed loss of all completion tokens over their number, so a long
    completion counts for its length. Statistics: loss in nats, tokens.
    """

    columns: ClassVar[dict[str, Any]] = {"prompts": TOKENS, "completions": TOKENS}
    source = "Jelinek et al., Perplexity: a measure of the difficulty of speech recognition tasks, 1977"

    def __init__(self, language_model: LanguageModel) -> None:
        super().__init__(keep_in_memory=True)
        self.language_model = language_model

    def statistics(self, prompts: list[list[int]], completions: list[list[int]]) -> Table:
        """Return (loss in nats, tokens) for each completion."""
        examples = [Example(*pair) for pair in zip(prompts, completions, strict=True)]
        return np.array(completion_losses(self.language_model.model, examples))

    @staticmethod
    def value(totals: Table) -> float:
        """Return exp(loss / tokens)."""
        return math.exp(totals[0] / totals[1])


class Bleu(CorpusMetric):
    """Corpus BLEU, 0 to 100, against one or more references an example, as sacreBLEU computes it.

    Statistics: matches and n-grams of orders 1 to 4, hypothesis length, closest reference length.
    """

    columns: ClassVar[dict[str, Any]] = REPLIES
    source = "Papineni et al., 2002; Post, A Call for Clarity in Reporting BLEU Scores, 2018 (sacreBLEU)"
    scorer = BLEU(effective_order=True)  # silences a warning about sentence scores, which are not used

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (matches × 4, n-grams × 4, hypothesis length, reference length) for each example."""
        scores = [self.scorer.sentence_score(*pair) for pair in zip(predictions, references, strict=True)]
        return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores], dtype=float)

    @staticmethod
    def value(totals: Table) -> float:
        """Return corpus BLEU with sacreBLEU's default smoothing."""
        counts = [int(total) for total in totals]
        score: float = BLEU.compute_bleu(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp").score
        return score

    @staticmethod
    def signature() -> str:
        """Return sacreBLEU's signature of how the score was computed; the number of references varies."""
        scorer = BLEU()
        scorer.corpus_score(["x"], [["x"]])
        return str(scorer.get_signature()).replace("nrefs:1", "nrefs:var")


class Chrf(CorpusMetric):
    """Corpus chrF2, 0 to 100, against the best-matching reference of each example, as sacreBLEU computes it.

    Statistics: hypothesis, reference and matching character n-grams of orders 1 to 6.
    """

    columns: ClassVar[dict[str, Any]] = REPLIES
    source = "Popović, chrF: character n-gram F-score for automatic MT evaluation, 2015 (sacreBLEU)"
    scorer = CHRF()

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (hypothesis, reference, match) counts of six orders for each example."""
        most = max(map(len, references))
        streams = [[refs[n] if n < len(refs) else None for refs in references] for n in range(most)]
        # sacreBLEU has no public way to its per-example statistics.
        return np.array(self.scorer._extract_corpus_statistics(predictions, streams), dtype=float)

    @staticmethod
    def value(totals: Table) -> float:
        """Return chrF2 of the summed counts."""
        score: float = Chrf.scorer._compute_f_score([int(total) for total in totals])
        return score


class StopRate(CorpusMetric):
    """The share of replies that ended by themselves, before the token limit. Statistics: ended, 1."""

    columns: ClassVar[dict[str, Any]] = {"predictions": datasets.Value("bool")}
    source = "Forgeline"

    def statistics(self, predictions: list[bool]) -> Table:
        """Return (ended, 1) for each reply."""
        return np.array([[float(ended), 1.0] for ended in predictions])

    @staticmethod
    def value(totals: Table) -> float:
        """Return ended / replies."""
        return float(totals[0] / totals[1])


METRICS: dict[str, type[CorpusMetric]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "perplexity": Perplexity,
    "stop_rate": StopRate,
}

# Averages over tokens, which mean nothing across vocabularies.
BY_TOKEN = frozenset({"perplexity"})
