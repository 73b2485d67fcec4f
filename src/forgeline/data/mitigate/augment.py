"""Counterfactual augmentation: to each training row, the same row about another group (Lu et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy
import polars
import pyarrow
import xxhash
from numpy.typing import NDArray

from forgeline.config.schema import Assess
from forgeline.data import table
from forgeline.data.bias.exchange import Exchange
from forgeline.data.mitigate.contract import Tables


def augment(tables: Tables, category: str, config: Assess) -> Tables:
    """Return the tables with, after each, its rows with every two groups of a category exchanged.

    Prompt, completion, references and rejected completion change together, and the system turn stays. A
    new row has its original's key, an id of its own and `origin.augmented`; it is left out if the
    training split has the same conversation already. In memory are 8 bytes for each row that changes.
    """
    exchange = Exchange(category, config)
    known = _conversations(tables, exchange)

    def augmented() -> Iterator[pyarrow.Table]:
        for rows in tables():
            yield rows
            twins = [
                twin
                for row in table.to_rows(rows.filter(_speaks(rows, exchange)))
                for one, other in combinations(exchange.groups, 2)
                if (twin := _twin(row, category, one, other, exchange)) and not _holds(known, _digest(twin))
            ]
            if twins:
                yield table.from_rows(twins)

    return augmented


def _twin(row: dict[str, Any], category: str, one: str, other: str, exchange: Exchange) -> dict[str, Any] | None:
    """Return a row with two groups exchanged, or None if that changes nothing."""
    changed = False

    def said(text: str) -> str:
        nonlocal changed
        new, words = exchange(text, one, other)
        changed |= bool(words)
        return new

    twin = {
        **row,
        "id": f"{row['id']}+{one}-{other}",
        "messages": [
            turn if turn["role"] == "system" else {**turn, "content": said(turn["content"])} for turn in row["messages"]
        ],
        "references": [said(text) for text in row.get("references", [])],
        "origin": {**row.get("origin", {}), "augmented": {"of": row["id"], "exchanged": [one, other]}},
    }
    if "rejected" in row:
        twin["rejected"] = said(row["rejected"])
    if (group := row.get("groups", {}).get(category)) in {one, other}:
        twin["groups"] = {**row["groups"], category: other if group == one else one}
    return twin if changed else None


def _speaks(rows: pyarrow.Table, exchange: Exchange) -> pyarrow.Array:
    """Return which rows may change: those with a word, anywhere, that is exchanged."""
    frame = polars.DataFrame(polars.from_arrow(rows.select(["messages", "references", "rejected"])))
    turns = polars.col("messages").list.eval(polars.element().struct.field("content")).list.join("\n")
    others = polars.concat_str(
        turns, polars.col("references").list.join("\n"), polars.col("rejected"), separator="\n", ignore_nulls=True
    )
    found = frame.select(others.str.to_lowercase().str.contains(exchange.pattern).fill_null(False))
    return pyarrow.array(found.to_series().to_numpy())


def _conversations(tables: Tables, exchange: Exchange) -> NDArray[numpy.uint64]:
    """Return the sorted digests of the conversations that may change: no other can be met by a new one."""
    pieces = [numpy.empty(0, numpy.uint64)]
    for rows in tables():
        digests = [_digest(row) for row in table.to_rows(rows.filter(_speaks(rows, exchange)))]
        pieces.append(numpy.array(digests, numpy.uint64))
    return numpy.sort(numpy.concatenate(pieces))


def _digest(row: dict[str, Any]) -> int:
    turns: Iterable[str] = (f"{turn['role']}\0{turn['content']}" for turn in row["messages"])
    return int(xxhash.xxh3_64_intdigest("\0".join(turns).encode()))


def _holds(known: NDArray[numpy.uint64], digest: int) -> bool:
    place = int(numpy.searchsorted(known, numpy.uint64(digest)))
    return place < len(known) and int(known[place]) == digest
