"""What changed between two dataset versions: rows by id and content, and the numbers of the reports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
from pydantic import BaseModel

from forgeline.data.history import Version, quarantine, reports, splits
from forgeline.data.identities import ID, buckets, differing, pick, quarantined
from forgeline.data.layout import NAMES


class Rows(BaseModel):
    """How many rows a split or a source gained and lost; `changed` kept their id and their split."""

    came: int = 0
    went: int = 0
    changed: int = 0
    moved_in: int = 0
    moved_out: int = 0


class Number(BaseModel):
    """A number of a report in both versions; None where a version lacks it."""

    before: float | None
    after: float | None
    difference: float | None


class Comparison(BaseModel):
    """Two versions, side by side.

    `quarantine` counts rows by rule before and after, `taken` the rows that left the splits by the rule
    that quarantined them, `released` those that came back from it. `examples` are by split and by what
    happened; a changed row is shown as the fields that differ, before and after.
    """

    before: str
    after: str
    splits: dict[str, Rows]
    sources: dict[str, Rows]
    quarantine: dict[str, tuple[int, int]]
    taken: dict[str, int]
    released: dict[str, int]
    examples: dict[str, dict[str, list[dict[str, Any]]]]
    metrics: dict[str, Number]


def compare(root: Path, before: Version, after: Version, shown: int = 3) -> Comparison:
    """Return what changed from one version to another; where their rows came from counts as no change.

    Files are streamed, and a row is held as hashes of 128 bits for its id and 64 for its content.

    Args:
        root: the project.
        before: a version, whose files are fetched if they are not here.
        after: another.
        shown: how many examples there are at most of each kind in each split.
    """
    files = splits(root, before), splits(root, after)
    sources: dict[str, int] = {}
    rows = differing(*files, sources)
    rules = [quarantined(quarantine(root, version)) for version in (before, after)]
    tally = _Tally(shown)
    for old, new, held, now_held in buckets(*rows, *rules):
        tally.add(old, new, held, now_held)
    totals = [dict(each["rule"].value_counts().iter_rows()) for each in rules]
    examples = {name: tally.examples(at, *(each[name] for each in files)) for at, name in enumerate(NAMES)}
    return Comparison(
        before=before.name,
        after=after.name,
        splits={name: tally.rows("split", at) for at, name in enumerate(NAMES)},
        sources={name: tally.rows("source", at) for name, at in sorted(sources.items())},
        quarantine={
            rule: (totals[0].get(rule, 0), totals[1].get(rule, 0)) for rule in sorted({*totals[0], *totals[1]})
        },
        taken=dict(sorted(tally.counts["taken", "rule"].items())),
        released=dict(sorted(tally.counts["released", "rule"].items())),
        examples={name: found for name, found in examples.items() if found},
        metrics=moved_numbers(reports(root, before), reports(root, after)),
    )


class _Tally:
    """What became of rows: counts by split, source and rule, and the first of each kind in each split."""

    def __init__(self, shown: int) -> None:
        self.shown = shown
        self.counts: defaultdict[tuple[str, str], Counter[Any]] = defaultdict(Counter)
        self.firsts: defaultdict[str, list[polars.DataFrame]] = defaultdict(list)

    def add(
        self, old: polars.DataFrame, new: polars.DataFrame, held: polars.DataFrame, now_held: polars.DataFrame
    ) -> None:
        """Add rows of both versions, and those that each had in quarantine."""
        both = old.join(new, on=ID, suffix="_new")
        stayed = polars.col("split") == polars.col("split_new")
        moved = both.filter(~stayed)
        events = {
            "came": new.join(old, on=ID, how="anti"),
            "went": old.join(new, on=ID, how="anti"),
            "changed": both.filter(stayed, polars.col("content") != polars.col("content_new")),
        }
        for kind, rows in events.items():
            self._count(kind, rows, "source")
            self.firsts[kind].append(rows.sort("line").group_by("split", maintain_order=True).head(self.shown))
        for kind, rows in {**events, "moved_out": moved}.items():
            self._count(kind, rows, "split")
        self._count("moved_in", moved.drop("split").rename({"split_new": "split"}), "split")
        self._count("taken", events["went"].join(now_held.unique(ID), on=ID), "rule")
        self._count("released", events["came"].join(held.unique(ID), on=ID), "rule")

    def rows(self, column: str, value: int) -> Rows:
        """Return the counts of a split or a source."""
        return Rows(**{kind: self.counts[kind, column][value] for kind in Rows.model_fields})

    def examples(self, split: int, old: Path, new: Path) -> dict[str, list[dict[str, Any]]]:
        """Return the first rows of each kind in a split, given its files in both versions."""
        came, went, changed = (
            polars.concat(self.firsts[kind]).filter(polars.col("split") == split).sort("line").head(self.shown)
            for kind in ("came", "went", "changed")
        )
        befores = pick(old, [*went["line"], *changed["line"]])
        afters = pick(new, [*came["line"], *changed["line_new"]])
        pairs = changed.select("line", "line_new").iter_rows()
        found = {
            "came": [afters[line] for line in came["line"]],
            "went": [befores[line] for line in went["line"]],
            "changed": [_difference(befores[line], afters[line_new]) for line, line_new in pairs],
        }
        return {kind: rows for kind, rows in found.items() if rows}

    def _count(self, kind: str, rows: polars.DataFrame, column: str) -> None:
        self.counts[kind, column].update(dict(rows[column].value_counts().iter_rows()))


def moved_numbers(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Number]:
    """Return the numbers of reports that differ, by their path in them."""
    old, new = (dict(_numbers(each)) for each in (before, after))
    moved = {}
    for name in sorted({*old, *new}):
        pair = old.get(name), new.get(name)
        if pair[0] != pair[1]:
            difference = pair[1] - pair[0] if pair[0] is not None and pair[1] is not None else None
            moved[name] = Number(before=pair[0], after=pair[1], difference=difference)
    return moved


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _numbers(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for key, below in zip(_labels(value), value, strict=True):
            yield from _numbers(below, f"{path}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _labels(rows: list[Any]) -> list[str]:
    """Return a name for each item of a list: the first of its texts that tell it apart, or its place."""
    texts = [[text for text in row.values() if isinstance(text, str)] if isinstance(row, dict) else [] for row in rows]
    for length in range(1, min((len(each) for each in texts), default=0) + 1):
        names = ["/".join(each[:length]) for each in texts]
        if len(set(names)) == len(rows):
            return names
    return [str(number) for number in range(len(rows))]


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in {**before, **after} if name != "origin" and before.get(name) != after.get(name)]
    return {"id": before["id"], **{name: [before.get(name), after.get(name)] for name in names}}
