"""Metrics of a reply's words beside those that people wrote."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.lib_ter import translation_edit_rate

from forgeline.evaluation.metrics.corpus import REPLIES, CorpusMetric, Mean, Table, with_ones


class Bleu(CorpusMetric):
    """Corpus BLEU, 0 to 100, against one or more references an example, as sacreBLEU computes it.

    Statistics: matches and n-grams of orders 1 to 4, hypothesis length, closest reference length.
    """

    columns = tuple(REPLIES)
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

    def values(self, table: Table, draws: Table) -> Table:
        """Return what `value` returns for each resample, all at once."""
        totals = draws @ table
        matches, ngrams, (length, closest) = totals[:, :4], totals[:, 4:8], totals[:, 8:].T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            smoothed = np.where(matches == 0, 0.5 ** np.cumsum(matches == 0, axis=1), matches)
            brevity = np.exp(np.minimum(0, 1 - closest / length))
            values: Table = 100 * brevity * np.exp(np.log(smoothed / ngrams).mean(axis=1))
        values[(matches == 0).all(axis=1) | (ngrams == 0).any(axis=1)] = 0
        return values

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

    columns = tuple(REPLIES)
    source = "Popović, chrF: character n-gram F-score for automatic MT evaluation, 2015 (sacreBLEU)"
    scorer = CHRF()

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (hypothesis, reference, match) counts of six orders for each example."""
        # sacreBLEU has no public way to its per-example statistics.
        return np.array(self.scorer._extract_corpus_statistics(predictions, streams(references)), dtype=float)

    @staticmethod
    def value(totals: Table) -> float:
        """Return chrF2 of the summed counts."""
        score: float = Chrf.scorer._compute_f_score([int(total) for total in totals])
        return score

    def values(self, table: Table, draws: Table) -> Table:
        """Return what `value` returns for each resample, all at once."""
        hypothesis, reference, match = np.moveaxis((draws @ table).reshape(len(draws), -1, 3), 2, 0)
        counted = (hypothesis > 0) & (reference > 0)
        orders = np.maximum(counted.sum(axis=1), 1)
        precision, recall = (
            np.divide(match, whole, out=np.zeros_like(match), where=counted).sum(axis=1) / orders
            for whole in (hypothesis, reference)
        )
        factor = self.scorer.beta**2
        weighed = factor * precision + recall
        values: Table = np.divide(
            100 * (1 + factor) * precision * recall, weighed, out=np.zeros_like(weighed), where=weighed > 0
        )
        return values


class Ter(CorpusMetric):
    """Translation edit rate: edits and shifts of words a hundred words of reference, as sacreBLEU computes it.

    Edits to the closest reference over the mean length of all of an example's; may exceed 100. An empty reply
    takes as many edits as its shortest reference has words. Statistics: edits, mean reference length.
    """

    columns = tuple(REPLIES)
    source = "Snover et al., A Study of Translation Edit Rate with Targeted Human Annotation, 2006 (sacreBLEU)"
    better = "lower"
    scorer = TER()

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (edits, mean reference length) for each example."""
        examples = []
        for reply, accepted in zip(predictions, references, strict=True):
            words, *others = [self.scorer._preprocess_segment(text).split() for text in (reply, *accepted)]
            examples.append((_fewest_edits(words, others), sum(map(len, others)) / len(others)))
        return np.array(examples, dtype=float)

    @staticmethod
    def value(totals: Table) -> float:
        """Return TER of the summed counts."""
        return float(Ter.scorer._compute_score_from_stats(list(totals)).score)


def _fewest_edits(words: list[str], others: list[list[str]]) -> float:
    """Return the edits to the closest reference, without looking at those whose words alone differ by more."""
    fewest = math.inf
    for least, other in sorted((_least_edits(words, other), other) for other in others):
        if least < fewest:
            fewest = min(fewest, translation_edit_rate(words, other)[0])
    return fewest


def _least_edits(words: list[str], other: list[str]) -> int:
    return max(len(words), len(other)) - (Counter(words) & Counter(other)).total()


class ExactMatch(Mean):
    """The share of replies that are one of their references, whatever the case and spaces. Statistics: hit, 1."""

    columns = tuple(REPLIES)
    source = "Rajpurkar et al., SQuAD, 2016, without its stripping of articles and punctuation"

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (is a reference, 1) for each reply."""
        pairs = zip(predictions, references, strict=True)
        return with_ones(plain(reply) in map(plain, accepted) for reply, accepted in pairs)


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """Return all first references, all second ones, …, as sacreBLEU takes them; None where an example has fewer."""
    most = max(map(len, references))
    return [[accepted[n] if n < len(accepted) else None for accepted in references] for n in range(most)]


def plain(text: str) -> str:
    """Return a text in small letters with single spaces."""
    return " ".join(text.casefold().split())
