"""Weighted words, summed over the sentences of a text at the speed of its bytes."""

from __future__ import annotations

import numpy
import polars

from forgeline.data.kernels import Texts
from forgeline.data.rules import kernels
from forgeline.data.rules.kernels import Floats, Hashes


class Words:
    """The words of a batch of texts: their hashes, their sentences, and each text's first sentence."""

    def __init__(self, texts: polars.Series | Texts) -> None:
        batch = texts if isinstance(texts, Texts) else kernels.bytes_of(texts)
        self.hashes, self.sentences, self.first = kernels.spell(*batch)


class Lexicon:
    """Words with weights; all other words weigh nothing."""

    def __init__(self, hashes: Hashes, weights: Floats) -> None:
        size = 16
        while size < 2 * len(hashes):
            size *= 2
        self._keys, self._weights = numpy.zeros(size, numpy.uint64), numpy.zeros(size, numpy.float64)
        kernels.place(hashes, weights, self._keys, self._weights)

    def sentence_sums(self, words: Words) -> Floats:
        """Return the sum of weights of each sentence."""
        count = int(words.first[-1])
        sums: Floats = kernels.sum_weights(words.hashes, words.sentences, count, self._keys, self._weights)
        return sums

    def total(self, texts: polars.Series) -> Floats:
        """Return the sum of weights of each text."""
        words = Words(texts)
        return numpy.add.reduceat(self.sentence_sums(words), words.first[:-1])

    def highest(self, texts: polars.Series | Texts) -> Floats:
        """Return the sum of weights of each text's heaviest sentence."""
        words = Words(texts)
        return numpy.maximum.reduceat(self.sentence_sums(words), words.first[:-1])


def hashes_of(*lists: str) -> Hashes:
    """Return the hashes under which the words of lists, in each parted by spaces, are found in texts."""
    hashes: Hashes = numpy.unique(Words(polars.Series(lists, dtype=polars.String)).hashes)
    return hashes
