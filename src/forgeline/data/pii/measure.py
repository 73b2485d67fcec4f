"""Precision and recall of the recognisers on the planted set."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import polars

from forgeline.config.schema import Pii
from forgeline.data.pii.finder import Find, Finder, not_covered
from forgeline.data.pii.planted import Sentence, plant

Z = 1.959964  # of a two-sided interval at 95 %


def measure(config: Pii) -> dict[str, Any]:
    """Return recall and precision with 95 % intervals, by kind and over all, for the kinds and regions configured.

    A planted span is recalled if finds of its kind cover it whole; a find is right if four fifths of it
    lie in a planted span of its kind. Names and one's own recognisers have no planted set.
    """
    finder = Finder(config.model_copy(update={"names": False, "recognisers": None}), Path())
    sentences = list(plant(config.kinds, config.regions))
    found = finder.find(polars.Series([sentence.text for sentence in sentences], dtype=polars.String))
    planted, recalled, finds, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row, sentence in enumerate(sentences):
        here = found.get(row, [])
        for kind, start, end in sentence.spans:
            planted[kind] += 1
            recalled[kind] += _overlap(Find(kind, start, end), here) == end - start
        for find in here:
            finds[find.kind] += 1
            right[find.kind] += _overlap(find, sentence.spans) >= 0.8 * (find.end - find.start)
    kinds = {kind: _scores(planted[kind], recalled[kind], finds[kind], right[kind]) for kind in config.kinds}
    return {
        "sentences": {
            "with": sum(map(_has_spans, sentences)),
            "without": len(sentences) - sum(map(_has_spans, sentences)),
        },
        "regions": list(config.regions),
        "not_covered": not_covered(config),
        "overall": _scores(planted.total(), recalled.total(), finds.total(), right.total()),
        "kinds": kinds,
    }


def interval(successes: int, trials: int) -> list[float] | None:
    """Return the score interval of a share at 95 % (Wilson, 1927), or nothing without trials."""
    if not trials:
        return None
    share, z2 = successes / trials, Z * Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return [round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)]


def _scores(planted: int, recalled: int, finds: int, right: int) -> dict[str, Any]:
    return {
        "planted": planted,
        "recall": round(recalled / planted, 4) if planted else None,
        "recall_interval": interval(recalled, planted),
        "finds": finds,
        "precision": round(right / finds, 4) if finds else None,
        "precision_interval": interval(right, finds),
    }


def _overlap(span: Find, others: list[Find] | list[tuple[str, int, int]]) -> int:
    """Return how many characters of a span lie in others of its kind, which do not overlap each other."""
    return sum(max(0, min(span.end, end) - max(span.start, start)) for kind, start, end in others if kind == span.kind)


def _has_spans(sentence: Sentence) -> bool:
    return bool(sentence.spans)
