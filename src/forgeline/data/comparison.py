"""What changed between two dataset versions: rows by id and content, and the numbers of the reports."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars
from pydantic import BaseModel
from xxhash import xxh3_128_digest

from forgeline.data import table
from forgeline.data.history import Version, quarantine, reports, splits
from forgeline.data.layout import NAMES

ID = ["id_0", "id_1"]
ROW = {"split": polars.UInt8, "line": polars.UInt32, "source": polars.UInt16, "content": polars.UInt64}


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
    old, new = _differing(*files, sources)
    came, went = new.join(old, on=ID, how="anti"), old.join(new, on=ID, how="anti")
    both = old.join(new, on=ID, suffix="_new")
    moved = both.filter(polars.col("split") != polars.col("split_new"))
    changed = both.filter(
        polars.col("split") == polars.col("split_new"), polars.col("content") != polars.col("content_new")
    )
    events = {"came": came, "went": went, "changed": changed, "moved_out": moved}
    by_split = [(kind, _count(rows, "split")) for kind, rows in events.items()]
    by_split.append(("moved_in", _count(moved, "split_new")))
    by_source = [(kind, _count(rows, "source")) for kind, rows in events.items() if kind != "moved_out"]
    rules = _rules(root, before), _rules(root, after)
    totals = [dict(each["rule"].value_counts().iter_rows()) for each in rules]
    return Comparison(
        before=before.name,
        after=after.name,
        splits={name: Rows(**{kind: n.get(at, 0) for kind, n in by_split}) for at, name in enumerate(NAMES)},
        sources={name: Rows(**{kind: n.get(at, 0) for kind, n in by_source}) for name, at in sorted(sources.items())},
        quarantine={
            rule: (totals[0].get(rule, 0), totals[1].get(rule, 0)) for rule in sorted({*totals[0], *totals[1]})
        },
        taken=_count(went.join(rules[1].unique(ID), on=ID), "rule"),
        released=_count(came.join(rules[0].unique(ID), on=ID), "rule"),
        examples=_examples(*files, came, went, changed, shown),
        metrics=moved_numbers(reports(root, before), reports(root, after)),
    )


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


def _differing(
    old: dict[str, Path], new: dict[str, Path], sources: dict[str, int]
) -> tuple[polars.DataFrame, polars.DataFrame]:
    """Return the rows of two versions whose lines are not the same, byte for byte, in the same split of the other."""
    frames: tuple[list[polars.DataFrame], list[polars.DataFrame]] = ([], [])
    for at, name in enumerate(NAMES):
        if old[name] == new[name]:
            continue
        lines = [_lines(version[name]) for version in (old, new)]
        for side, version in enumerate((old, new)):
            only = lines[side].join(lines[1 - side], on=ID, how="anti")["line"].to_numpy()
            frames[side].append(_read(version[name], only, at, sources))
    empty = polars.DataFrame(schema=dict.fromkeys(ID, polars.UInt64) | ROW)
    return tuple(polars.concat([empty, *side]).unique(ID, keep="first", maintain_order=True) for side in frames)


def _lines(path: Path) -> polars.DataFrame:
    digests = bytearray()
    with path.open("rb") as file:
        for line in file:
            digests += xxh3_128_digest(line)
    return _identities(digests).with_row_index("line")


def _read(path: Path, numbers: Any, split: int, sources: dict[str, int]) -> polars.DataFrame:
    wanted = np.zeros(int(numbers.max()) + 1 if len(numbers) else 0, bool)
    wanted[numbers] = True
    ids, contents, codes = bytearray(), bytearray(), bytearray()
    with path.open("rb") as file:
        for line in compress(file, wanted):
            row = orjson.loads(line)
            ids += xxh3_128_digest(row["id"].encode())
            codes += sources.setdefault(row.get("source") or "none", len(sources)).to_bytes(2, "little")
            row.pop("origin", None)
            contents += xxh3_128_digest(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))[:8]
    return _identities(ids).with_columns(
        polars.lit(split, polars.UInt8).alias("split"),
        polars.Series("line", np.flatnonzero(wanted), polars.UInt32),
        polars.Series("source", np.frombuffer(codes, "<u2"), polars.UInt16),
        polars.Series("content", np.frombuffer(contents, "<u8"), polars.UInt64),
    )


def _identities(digests: bytearray) -> polars.DataFrame:
    halves = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return polars.DataFrame(
        {name: halves[:, at] for at, name in enumerate(ID)}, schema=dict.fromkeys(ID, polars.UInt64)
    )


def _rules(root: Path, version: Version) -> polars.DataFrame:
    """Return the rules that quarantined a version's rows, with the rows' ids."""
    digests, rules = bytearray(), []
    for path in quarantine(root, version):
        part = table.read(path, columns=["id", "rule"])
        for each in part["id"].to_pylist():
            digests += xxh3_128_digest((each or "").encode())
        rules.append(polars.Series("rule", part["rule"], polars.Categorical))
    column = polars.concat(rules) if rules else polars.Series("rule", [], polars.Categorical)
    return _identities(digests).with_columns(column.cast(polars.String))


def _count(rows: polars.DataFrame, column: str) -> dict[Any, int]:
    return dict(sorted(rows[column].value_counts().iter_rows()))


def _examples(
    old: dict[str, Path],
    new: dict[str, Path],
    came: polars.DataFrame,
    went: polars.DataFrame,
    changed: polars.DataFrame,
    shown: int,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for at, name in enumerate(NAMES):
        first = {
            kind: rows.filter(polars.col("split") == at).sort("line").head(shown)
            for kind, rows in (("came", came), ("went", went), ("changed", changed))
        }
        befores = _pick(old[name], [*first["went"]["line"], *first["changed"]["line"]])
        afters = _pick(new[name], [*first["came"]["line"], *first["changed"]["line_new"]])
        pairs = first["changed"].select("line", "line_new").iter_rows()
        kinds = {
            "came": [afters[line] for line in first["came"]["line"]],
            "went": [befores[line] for line in first["went"]["line"]],
            "changed": [_difference(befores[line], afters[line_new]) for line, line_new in pairs],
        }
        if kept := {kind: rows for kind, rows in kinds.items() if rows}:
            found[name] = kept
    return found


def _pick(path: Path, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """Return the rows on some lines of a file, by number."""
    wanted = np.zeros(max(numbers, default=-1) + 1, bool)
    wanted[numbers] = True
    with path.open("rb") as file:
        return {
            int(n): orjson.loads(line) for n, line in zip(np.flatnonzero(wanted), compress(file, wanted), strict=True)
        }


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in {**before, **after} if name != "origin" and before.get(name) != after.get(name)]
    return {"id": before["id"], **{name: [before.get(name), after.get(name)] for name in names}}
