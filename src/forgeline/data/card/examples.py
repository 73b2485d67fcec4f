"""Rows that each rule removed: those whose ids have the smallest digests, so that the choice repeats."""

from __future__ import annotations

import heapq
from collections import defaultdict
from pathlib import Path
from typing import Any

from forgeline.data import table
from forgeline.data.layout import KEPT, QUARANTINE
from forgeline.data.review import rank

CHARACTERS = 280


def examples(root: Path, most: int = 2) -> dict[str, list[dict[str, str]]]:
    """Return up to `most` rows of each rule; of a copy, also what the kept row says (`twin`)."""
    chosen: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
    for path in sorted((root / QUARANTINE).rglob("*.parquet")):  # none, if no rule removed a row
        columns = table.read(path, ["id", "rule"])
        ranked: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, (name, rule) in enumerate(zip(columns["id"].to_pylist(), columns["rule"].to_pylist(), strict=True)):
            ranked[rule].append((rank(name, "example"), place))
        first = {
            place: (order, rule)
            for rule, rows in ranked.items()
            for order, place in heapq.nsmallest(most, rows)
            if len(chosen[rule]) < most or order < chosen[rule][-1][0]
        }
        for (order, rule), row in zip(first.values(), _rows(path, list(first)), strict=True):
            chosen[rule] = sorted([*chosen[rule], (order, row["id"], row)], key=lambda one: one[:2])[:most]
    twins = {row["duplicate_of"] for rows in chosen.values() for *_, row in rows} - {""}
    said = _completions(root, twins) if twins else {}
    return {
        rule: [{**row, "twin": said.get(row["duplicate_of"], "")} for *_, row in chosen[rule]]
        for rule in sorted(chosen)
    }


def _rows(path: Path, places: list[int]) -> list[dict[str, str]]:
    """Return rows of a part, their texts shortened."""
    return [_shown(row) for row in table.read(path).take(places).to_pylist()] if places else []


def _shown(row: dict[str, Any]) -> dict[str, str]:
    turns = row["messages"] or [{"role": "assistant", "content": row["raw"] or ""}]
    ends = turns[-1]["role"] == "assistant"
    prompt = " / ".join(turn["content"] for turn in (turns[:-1] if ends else turns) if turn["role"] != "system")
    return {
        "id": row["id"],
        "prompt": _short(prompt),
        "completion": _short(turns[-1]["content"]) if ends else "",
        "detail": _short(row["detail"] or ""),
        "duplicate_of": row["duplicate_of"] or "",
    }


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


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS].rstrip()} …"
