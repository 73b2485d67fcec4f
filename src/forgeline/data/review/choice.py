"""Which rows people look at: those whose hashed ids come first, so that the choice repeats."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from forgeline.data import table
from forgeline.data.layout import KEPT, QUARANTINE, SPLITS
from forgeline.errors import DataError
from forgeline.records import read_jsonl


class Item(NamedTuple):
    """A row as people see it; `rule` and `detail` say why it was removed, and are empty if it was not."""

    id: str
    prompt: str
    completion: str
    source: str = ""
    rule: str = ""
    detail: str = ""


def sample(root: Path, split: str, count: int, seed: int) -> list[Item]:
    """Return `count` rows of a split, or all if it holds fewer.

    Raises:
        DataError: if the split is not there.
    """
    ranked = ((rank(row["id"], seed), number, row) for number, row in enumerate(read_jsonl(root / SPLITS[split])))
    return [_item(row) for *_, row in heapq.nsmallest(count, ranked)]


def quarantined(root: Path, rule: str | None, count: int, seed: int) -> list[Item]:
    """Return `count` rows that a rule, or any rule, removed; rows that could not be read are left out.

    Raises:
        DataError: if the rule removed none.
    """
    paths = sorted((root / QUARANTINE).rglob("*.parquet"))  # none, if no rule removed a row
    rules: set[str] = set()
    places: dict[int, list[int]] = defaultdict(list)
    for *_, part, place in heapq.nsmallest(count, _places(paths, rule, seed, rules)):
        places[part].append(place)
    if not places:
        raise DataError(
            f"{root / QUARANTINE} holds no readable row{f' of the rule {rule}' if rule else ''}: "
            f"the rules that removed rows are {', '.join(sorted(rules)) or 'none'}."
        )
    rows = [row for part, chosen in places.items() for row in table.read(paths[part]).take(chosen).to_pylist()]
    # Rows of one id are one to those who judge them.
    items = {row["id"]: _item(row) for row in sorted(rows, key=lambda row: (rank(row["id"], seed), row["rule"]))}
    return list(items.values())


def present(root: Path, ids: set[str]) -> set[str]:
    """Return those of the ids that a kept or a removed row has."""
    import pyarrow
    from pyarrow import compute

    wanted = pyarrow.array(sorted(ids), pyarrow.string())
    found: set[str] = set()
    for path in table.parts((root / KEPT).parent):
        column = table.read(path, columns=["id"])["id"]
        found.update(column.filter(compute.is_in(column, wanted)).to_pylist())
    return found


def rank(name: str, seed: int | str) -> int:
    """Return a row's place among all rows, by its id: another seed gives another order."""
    return xxhash.xxh3_64_intdigest(f"{seed}:{name}".encode())


def _places(paths: list[Path], rule: str | None, seed: int, rules: set[str]) -> Iterator[tuple[int, str, int, int]]:
    """Yield the rank, id, part and row of each removed row; note the rules met on the way."""
    for part, path in enumerate(paths):
        columns = table.read(path, columns=["id", "rule", "fault"])
        for place, row in enumerate(columns.to_pylist()):
            rules.add(row["rule"])
            if row["fault"] is None and rule in (None, row["rule"]):
                yield rank(row["id"], seed), row["id"], part, place


def _item(row: dict[str, Any]) -> Item:
    turns = row["messages"]
    ends = bool(turns) and turns[-1]["role"] == "assistant"
    return Item(
        row["id"],
        _shown(turns[:-1] if ends else turns),
        turns[-1]["content"] if ends else "",
        row.get("source") or "",
        row.get("rule") or "",
        row.get("detail") or "",
    )


def _shown(turns: Iterable[dict[str, str]]) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
