"""Rows that each rule removed: those whose ids have the smallest digests, so that the choice repeats."""

from __future__ import annotations

import heapq
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from forgeline.config.schema import Data
from forgeline.data import engine, table
from forgeline.data.layout import KEPT, QUARANTINE

CHARACTERS = 280


class Removed(NamedTuple):
    """A removed row, its texts shortened; `twin` is what the kept row says that it repeats."""

    digest: int
    id: str
    rule: str
    prompt: str
    completion: str
    detail: str
    duplicate_of: str
    twin: str


def examples(root: Path, config: Data, most: int = 2) -> dict[str, list[dict[str, str]]]:
    """Return up to `most` rows of each rule."""
    by_rule: dict[str, list[Removed]] = defaultdict(list)
    paths = sorted((root / QUARANTINE).rglob("*.parquet"))  # none, if no rule removed a row
    for found in engine.run(partial(examples_of, most=most), paths, config, "examples"):
        for one in found:
            by_rule[one.rule] = heapq.nsmallest(most, [*by_rule[one.rule], one])
    twins = {one.duplicate_of for chosen in by_rule.values() for one in chosen if one.duplicate_of}
    said = _completions(root, twins) if twins else {}
    return {
        rule: [_entry(one._replace(twin=said.get(one.duplicate_of, ""))) for one in by_rule[rule]]
        for rule in sorted(by_rule)
    }


def examples_of(path: Path, most: int) -> list[Removed]:
    """Return up to `most` rows of each rule in one part of the quarantine."""
    import xxhash

    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    columns = table.read(path, ["id", "rule"])
    for place, (name, rule) in enumerate(zip(*(columns[name].to_pylist() for name in ("id", "rule")), strict=True)):
        places[rule].append((xxhash.xxh3_64_intdigest(name.encode()), place))
    chosen = [place for pairs in places.values() for _, place in heapq.nsmallest(most, pairs)]
    rows = table.read(path).take(chosen).to_pylist()
    return [_removed(row, xxhash.xxh3_64_intdigest(row["id"].encode())) for row in rows]


def _removed(row: dict[str, Any], digest: int) -> Removed:
    turns = row["messages"] or [{"role": "assistant", "content": row["raw"] or ""}]
    ends = turns[-1]["role"] == "assistant"
    prompt = " / ".join(turn["content"] for turn in (turns[:-1] if ends else turns) if turn["role"] != "system")
    return Removed(
        digest,
        row["id"],
        row["rule"],
        _short(prompt),
        _short(turns[-1]["content"]) if ends else "",
        _short(row["detail"] or ""),
        row["duplicate_of"] or "",
        "",
    )


def _completions(root: Path, ids: set[str]) -> dict[str, str]:
    """Return what the kept rows with these ids say."""
    import pyarrow
    from pyarrow import compute

    wanted = pyarrow.array(sorted(ids), pyarrow.string())
    found: dict[str, str] = {}
    for path in table.parts(root / KEPT):
        places = compute.indices_nonzero(compute.is_in(table.read(path, ["id"])["id"], wanted))
        if len(places):
            for row in table.read(path, ["id", "messages"]).take(places).to_pylist():
                found[row["id"]] = _short(row["messages"][-1]["content"])
    return found


def _entry(one: Removed) -> dict[str, str]:
    return {name: getattr(one, name) for name in ("id", "prompt", "completion", "detail", "twin")}


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS].rstrip()} …"
