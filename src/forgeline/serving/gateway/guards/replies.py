"""Guards of replies: what reads toxic, and values that no fact holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from forgeline.config.schema.serve.guards import Toxicity
from forgeline.data.values import loose_spans
from forgeline.serving.gateway.guards.fold import folded, unfolded
from forgeline.serving.gateway.guards.guard import Finding, Passage
from forgeline.serving.gateway.guards.masks import TAG

if TYPE_CHECKING:
    from forgeline.data.rules.toxicity import Scorer

SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")


class Toxicities:
    """Finds sentences that the data line's classifier takes for toxic; it is blind to the names of groups.

    Raises:
        SourceError: if the classifier is not in the cache, and what it is trained on is not to be had.
    """

    def __init__(self, rule: Toxicity) -> None:
        from forgeline.data.kernels import Texts
        from forgeline.data.rules import toxicity

        self._encoded = Texts.encoded
        self._threshold = rule.threshold
        self.use(toxicity.scorer())
        self.inspect(Passage("Ready.", "out", ()))  # compiles its loops

    def use(self, score: Scorer) -> None:
        """Score sentences by another classifier from now on."""
        self._score = score

    def inspect(self, passage: Passage) -> list[Finding]:
        """Return the toxic sentences."""
        plain, places = folded(passage.text)
        spans = [match.span() for match in SENTENCE.finditer(plain)]
        if not spans:
            return []
        scores = self._score(self._encoded([plain[start:end] for start, end in spans]))
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
