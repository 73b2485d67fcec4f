"""Instructions to a model to leave its instructions: a few patterns, and a linear classifier of words in company.

The classifier adds up weights of words, pairs and triples within 64 words; none is negative, so that nothing said
beside an attack excuses it. It reads English. `injection_training` made the weights, which ship as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass
class Branch:
    """What the classifier knows that begins with some words: whether these alone, and what may follow them."""

    known: str | None = None
    following: dict[str, Branch] = field(default_factory=dict)


@dataclass(frozen=True)
class Classifier:
    """The weights of words, pairs and triples, and the log-odds of a text with none.

    The probability is that of an attack, were half of all texts attacks.
    """

    weights: dict[str, float]
    constant: float
    _root: Branch = field(default_factory=Branch, repr=False, compare=False)

    def __post_init__(self) -> None:
        for gram in self.weights:
            branch = self._root
            for word in gram.split(" "):
                branch = branch.following.setdefault(word, Branch())
            branch.known = gram

    def worst(self, words: list[str]) -> tuple[float, int, int]:
        """Return the probability of the likeliest attack, and the first and last of its words."""
        grams = list(self._grams(words))
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

    def _grams(self, words: list[str]) -> Iterator[Gram]:
        for first, word in enumerate(words):
            last, branch = first, self._root.following.get(word)
            while branch is not None:
                if branch.known is not None:
                    yield Gram(branch.known, first, last)
                last += 1
                branch = branch.following.get(words[last]) if last < len(words) else None


@cache
def classifier() -> Classifier:
    """Return the shipped classifier."""
    shipped = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return Classifier(shipped["weights"], shipped["constant"])


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
        if any(beginning in plain for beginning in "<[#"):
            marks = [Finding("turn_mark", *unfolded(places, *match.span())) for match in PATTERNS.finditer(plain)]
            yield from marks
            if marks:
                return
        sure, first, last = self._classifier.worst([word.lower() for word in WORD.findall(plain)])
        words = list(WORD.finditer(plain)) if sure >= self._threshold else []
        if words:
            yield Finding("instructions", *unfolded(places, words[first].start(), words[last].end()))
