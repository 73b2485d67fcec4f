"""ROUGE, as the package rouge-score computes it."""

from __future__ import annotations

from typing import ClassVar

from forgeline.evaluation.metrics.corpus import REPLIES, Mean, Table, with_ones


class _Rouge(Mean):
    """The mean F-measure, 0 to 1, against the closest reference of each example, without stemming.

    Only a to z and digits count, so a reply in another script scores 0.
    """

    columns = tuple(REPLIES)
    source = "Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004 (rouge-score)"
    kind: ClassVar[str]

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (F-measure against the closest reference, 1) for each example."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([self.kind])
        pairs = zip(references, predictions, strict=True)
        return with_ones(scorer.score_multi(accepted, reply)[self.kind].fmeasure for accepted, reply in pairs)


class Rouge1(_Rouge):
    """The mean ROUGE-1 F-measure, 0 to 1: words in common with the closest reference. Statistics: F, 1."""

    kind = "rouge1"


class Rouge2(_Rouge):
    """The mean ROUGE-2 F-measure, 0 to 1: pairs of words in common with the closest reference. Statistics: F, 1."""

    kind = "rouge2"


class RougeL(_Rouge):
    """The mean ROUGE-L F-measure, 0 to 1: the longest common subsequence with the closest. Statistics: F, 1."""

    kind = "rougeL"
