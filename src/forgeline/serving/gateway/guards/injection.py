"""Instructions to a model to leave its instructions: a few patterns, and a linear classifier of words in company.

The classifier adds up weights of words, pairs and triples within 64 words; none is negative, so that nothing said
beside an attack excuses it. It reads English. `injection_training` made the weights, which ship as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from forgeline.config.schema.serve.guards import Injection
from forgeline.serving.gateway.guards.fold import folded, unfolded
from forgeline.serving.gateway.guards.guard import Finding, Passage

WEIGHTS = Path(__file__).with_name("injection.json")
WORD = re.compile(r"[^\W_]+")
CHUNK, STEP = 64, 32  # words that are judged together, and to the next such
PATTERNS = re.compile(  # what ends a turn or begins another in the chat formats of models
    r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>"
    r"|\[/?INST\]|<</?SYS>>|</?(?:system|instructions?|system_prompt)>|<(?:start|end)_of_turn>"
    r"|^#{2,4} ?(?:system|instruction|assistant)s?:",
    re.IGNORECASE | re.MULTILINE,
)


class Gram(NamedTuple):
    """A word, pair or triple that the classifier knows, and the words of the text that it begins and ends with."""

    words: str
    first: int
    last: int


class Classifier(NamedTuple):
    """The weights, the log-odds of words with none, and how many words the longest with a weight has, by its first.

    The probability is that of an attack, were half of all texts attacks.
    """

    weights: dict[str, float]
    constant: float
    longest: dict[str, int]

    @classmethod
    def of(cls, weights: dict[str, float], constant: float) -> Classifier:
        """Return the classifier with these weights of words, pairs and triples."""
        longest: dict[str, int] = {}
        for gram in weights:
            first, *others = gram.split(" ")
            longest[first] = max(longest.get(first, 0), 1 + len(others))
        return cls(weights, constant, longest)

    def worst(self, words: list[str]) -> tuple[float, int, int]:
        """Return the probability of the likeliest attack, and the first and last of its words."""
        grams = list(self._known(words))
        worst, span = self.constant, (0, max(0, len(words) - 1))
        begin = end = 0
        for start in range(0, max(1, len(words) - STEP), STEP):
            while begin < len(grams) and grams[begin].first < start:
                begin += 1
            while end < len(grams) and grams[end].first < start + CHUNK:
                end += 1
            here = grams[begin:end]
            odds = self.constant + sum(self.weights[one] for one in {gram.words for gram in here})
            if here and odds > worst:
                worst, span = odds, (here[0].first, max(gram.last for gram in here))
        return 1 / (1 + math.exp(-worst)), *span

    def _known(self, words: list[str]) -> Iterator[Gram]:
        for place, word in enumerate(words):
            for size in range(1, min(self.longest.get(word, 0), len(words) - place) + 1):
                gram = " ".join(words[place : place + size])
                if gram in self.weights:
                    yield Gram(gram, place, place + size - 1)


@cache
def classifier() -> Classifier:
    """Return the shipped classifier."""
    shipped = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return Classifier.of(shipped["weights"], shipped["constant"])


class Injections:
    """Finds attacks in messages of users and assistants; the system's instructions are the caller's to give."""

    def __init__(self, rule: Injection) -> None:
        self._threshold = rule.threshold
        self._classifier = classifier()

    def inspect(self, passage: Passage) -> Iterator[Finding]:
        """Yield the turn marks in a message, else its likeliest attack if that is likely enough."""
        if passage.role == "system":
            return
        plain, places = folded(passage.text)
        marks = [Finding("turn_mark", *unfolded(places, *match.span())) for match in PATTERNS.finditer(plain)]
        yield from marks
        if marks:
            return
        sure, first, last = self._classifier.worst([word.lower() for word in WORD.findall(plain)])
        words = list(WORD.finditer(plain)) if sure >= self._threshold else []
        if words:
            yield Finding("instructions", *unfolded(places, words[first].start(), words[last].end()))
