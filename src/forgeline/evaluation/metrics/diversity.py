"""Whether replies differ from each other."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from typing import ClassVar

import numpy as np

from forgeline.evaluation.metrics.corpus import Mean, Table

TOKEN = re.compile(r"\w+|[^\w\s]")


class _Distinct(Mean):
    """Distinct n-grams of all replies over all tokens, as the source has it; 0 if every reply is empty.

    Tokens are words and signs, whatever their case. Each occurrence of an n-gram counts for one part in as
    many as there are in the corpus, so that the parts add up to the number of distinct ones. A resample keeps
    these weights.
    """

    columns = ("predictions",)
    source = "Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models, 2016"
    order: ClassVar[int]

    def statistics(self, predictions: list[str]) -> Table:
        """Return (parts of distinct n-grams, tokens) for each reply."""
        replies = [TOKEN.findall(text.casefold()) for text in predictions]
        grams = [list(zip(*(tokens[start:] for start in range(self.order)), strict=False)) for tokens in replies]
        counts = Counter(chain.from_iterable(grams))
        parts = [sum(1 / counts[gram] for gram in own) for own in grams]
        return np.stack([parts, [len(tokens) for tokens in replies]], axis=1)


class Distinct1(_Distinct):
    """Distinct words of all replies over all words. Statistics: parts of distinct words, words."""

    order = 1


class Distinct2(_Distinct):
    """Distinct pairs of neighbouring words of all replies over all words. Statistics: parts of pairs, words."""

    order = 2


class Distinct3(_Distinct):
    """Distinct runs of three words of all replies over all words. Statistics: parts of runs, words."""

    order = 3
