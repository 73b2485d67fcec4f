"""Rows of dataset versions as hashes: 128 bits of the id, 64 of the content, so that millions can be joined."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars
from xxhash import xxh3_128_digest

from forgeline.data import table
from forgeline.data.layout import NAMES

ID = ["id_0", "id_1"]
ROW = {"split": polars.UInt8, "line": polars.UInt32, "source": polars.UInt16, "content": polars.UInt64}
BUCKET_BITS = 4  # a join's working memory is divided by two to this power


def differing(
    old: dict[str, Path], new: dict[str, Path], sources: dict[str, int]
) -> tuple[polars.DataFrame, polars.DataFrame]:
    """Return the rows of two versions whose lines are not the same, byte for byte, in the same split of the other.

    Args:
        old: the split files of a version, by name.
        new: those of another.
        sources: filled with a number for each name of a source, as in the column `source`.
    """
    frames: tuple[list[polars.DataFrame], list[polars.DataFrame]] = ([], [])
    for at, name in enumerate(NAMES):
        if old[name] == new[name]:
            continue
        only = _only_in_one(_lines(old[name]), _lines(new[name]))
        for side, (path, numbers) in enumerate(zip((old[name], new[name]), only, strict=True)):
            frames[side].append(_read(path, numbers, at, sources))
    empty = polars.DataFrame(schema=dict.fromkeys(ID, polars.UInt64) | ROW)
    return polars.concat([empty, *frames[0]]), polars.concat([empty, *frames[1]])


def quarantined(paths: list[Path]) -> polars.DataFrame:
    """Return the rules that quarantined the rows of some part files, with the rows' ids."""
    digests, rules = bytearray(), []
    for path in paths:
        part = table.read(path, columns=["id", "rule"])
        for each in part["id"].to_pylist():
            digests += xxh3_128_digest((each or "").encode())
        rules.append(polars.Series("rule", part["rule"], polars.String))
    column = polars.concat(rules) if rules else polars.Series("rule", [], polars.String)
    return _identities(digests).with_columns(column)


def buckets(*frames: polars.DataFrame) -> Iterator[list[polars.DataFrame]]:
    """Yield the rows of frames in turn, so that equal ids come together."""
    for bucket in range(1 << BUCKET_BITS):
        yield [frame.filter(polars.col(ID[0]) % (1 << BUCKET_BITS) == bucket) for frame in frames]


def pick(path: Path, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """Return the rows on some lines of a file, by number."""
    wanted = _mask(numbers)
    with path.open("rb") as file:
        lines = zip(np.flatnonzero(wanted), compress(file, wanted), strict=True)
        return {int(number): orjson.loads(line) for number, line in lines}


def _mask(numbers: Any) -> Any:
    wanted = np.zeros(int(max(numbers, default=-1)) + 1, bool)
    wanted[numbers] = True
    return wanted


def _only_in_one(old: polars.DataFrame, new: polars.DataFrame) -> tuple[polars.Series, polars.Series]:
    pairs = list(buckets(old, new))
    gone = [left.join(right, on=ID, how="anti")["line"] for left, right in pairs]
    come = [right.join(left, on=ID, how="anti")["line"] for left, right in pairs]
    return polars.concat(gone), polars.concat(come)


def _lines(path: Path) -> polars.DataFrame:
    digests = bytearray()
    with path.open("rb") as file:
        for line in file:
            digests += xxh3_128_digest(line)
    return _identities(digests).with_row_index("line")


def _read(path: Path, numbers: polars.Series, split: int, sources: dict[str, int]) -> polars.DataFrame:
    wanted = _mask(numbers.to_numpy())
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
