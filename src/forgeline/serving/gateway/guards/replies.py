"""Guards of replies: what reads toxic, and values that no fact holds."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars

from forgeline.config.schema.serve.guards import Toxicity
from forgeline.data.values import loose_spans
from forgeline.serving.gateway.guards.fold import folded, unfolded
from forgeline.serving.gateway.guards.guard import Finding, Passage
from forgeline.serving.gateway.guards.masks import TAG

SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")


class Toxicities:
    """Finds sentences that the data line's classifier takes for toxic; it is blind to the names of groups.

    Raises:
        SourceError: if the classifier is not in the cache, and what it is trained on is not to be had.
    """

    def __init__(self, rule: Toxicity) -> None:
        from forgeline.data.rules.toxicity import toxicity_scores

        self._scores: Callable[[polars.Series], polars.Series] = toxicity_scores
        self._threshold = rule.threshold
        self.inspect(Passage("Ready.", "out", ()))  # loads, and compiles its loops

    def use(self, scores: Callable[[polars.Series], polars.Series]) -> None:
        """Score sentences by another classifier from now on."""
        self._scores = scores

    def inspect(self, passage: Passage) -> list[Finding]:
        """Return the toxic sentences."""
        plain, places = folded(passage.text)
        spans = [match.span() for match in SENTENCE.finditer(plain)]
        if not spans:
            return []
        scores = self._scores(polars.Series([plain[start:end] for start, end in spans]))
        toxic = zip(spans, scores, strict=True)
        return [Finding("toxic", *unfolded(places, *span)) for span, score in toxic if score >= self._threshold]


class Ungrounded:
    """Finds numbers, times, prices and codes of a reply that no message and no fact holds, in whatever writing."""

    def inspect(self, passage: Passage) -> list[Finding]:
        """Return the values."""
        text, told = (TAG.sub(_blank, one) for one in (passage.text, passage.told()))
        return [Finding("ungrounded", *span) for span in loose_spans(text, told)]


def _blank(match: re.Match[str]) -> str:
    """Return spaces for a tag: its number is no value."""
    return " " * len(match[0])
