"""A row as the hashes that it is dealt by, and the components that rows form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy
import orjson
import polars
from numpy.typing import NDArray

from forgeline.config.schema import Split
from forgeline.data import table
from forgeline.data.kernels import Hashes
from forgeline.data.splits.texts import COLUMNS, hashes, said
from forgeline.data.unions import roots, unite
from forgeline.errors import DataError

NEVER = numpy.iinfo(numpy.int64).min  # the time of a row that has none

# `place` orders keys and tells them apart, `rank` does so for rows, `stratum` is a hash of its name,
# `time` counts microseconds.
ROW = numpy.dtype(
    [("place", "u8"), ("rank", "u8"), ("prompt", "u8"), ("stratum", "u8"), ("time", "i8"), ("frozen", "?")]
)
LINK = numpy.dtype([("conversation", "u8"), ("row", "i4")])
Rows = NDArray[numpy.void]


class Scan(NamedTuple):
    """What to hash: a part, where to, the rule, and the sorted first 8 bytes of the frozen digests."""

    part: Path
    target: Path
    rule: Split
    frozen: Path


def scan(task: Scan) -> tuple[int, dict[int, str]]:
    """Write a part's rows as `ROW` and `LINK` arrays; return how many there are, and the names of strata."""
    rule = task.rule
    columns = table.read(task.part, [*COLUMNS, "id", "key", "groups", "time"])
    texts = said(columns)
    frame = polars.DataFrame(polars.from_arrow(columns.drop(COLUMNS)))
    rows = numpy.zeros(len(frame), ROW)
    rows["place"] = places(frame["key"], f"{rule.seed}:")
    rows["rank"] = hashes(frame["id"])
    rows["prompt"] = hashes(texts.prompts)
    if len(frozen := numpy.load(task.frozen)):
        rows["frozen"] = numpy.isin(places(frame["key"]), frozen)
    names: dict[int, str] = {}
    if rule.strategy == "stratified":
        strata = polars.Series(
            [orjson.loads(groups).get(rule.by) or "" for groups in frame["groups"]], dtype=polars.String
        )
        rows["stratum"] = hashes(strata)
        names = dict(zip(rows["stratum"].tolist(), strata, strict=True))
    if rule.strategy == "temporal":
        rows["time"] = [microseconds(time) for time in frame["time"]]
    links = numpy.zeros(len(texts.owners), LINK)
    links["conversation"], links["row"] = hashes(texts.conversations), texts.owners
    table.save_array(task.target.with_suffix(".rows.npy"), rows)
    table.save_array(task.target.with_suffix(".links.npy"), links)
    return len(rows), names


def places(names: Iterable[str], prefix: str = "") -> Hashes:
    """Return the first 8 bytes of the sha256 of each name: a place that nothing but the name decides."""
    digests = b"".join(hashlib.sha256(f"{prefix}{name}".encode()).digest()[:8] for name in names)
    return numpy.frombuffer(digests, ">u8").astype(numpy.uint64)


def microseconds(time: str | datetime | None) -> int:
    """Return an ISO 8601 time as microseconds since 1970, in UTC if it names no zone; NEVER if it is none."""
    try:
        told = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        return int(NEVER)
    if told is None:
        return int(NEVER)
    told = told if told.tzinfo else told.replace(tzinfo=UTC)
    return round(told.timestamp() * 1e6)


def components(rows: Rows, links: NDArray[numpy.void]) -> Hashes:
    """Return each row's component as the smallest place in it.

    Rows with an equal key, prompt or conversation are of one component, and so are those that a chain
    of such rows joins.
    """
    parent = numpy.arange(len(rows), dtype=numpy.int32)
    for values, owners in (
        (rows["place"], parent.copy()),
        (rows["prompt"], parent.copy()),
        (links["conversation"], links["row"]),
    ):
        order = numpy.argsort(values, kind="stable")
        equal = values[order[1:]] == values[order[:-1]]
        unite(parent, owners[order[1:]][equal], owners[order[:-1]][equal])
    root = roots(parent, numpy.arange(len(rows), dtype=numpy.int32))
    smallest = numpy.full(len(rows), numpy.iinfo(numpy.uint64).max, numpy.uint64)
    numpy.minimum.at(smallest, root, rows["place"])
    component: Hashes = smallest[root]
    return component


def require_times(rows: Rows) -> None:
    """Raise DataError if a temporal split cannot place every row."""
    if untimed := int((rows["time"] == NEVER).sum()):
        raise DataError(
            f"{untimed:,} of {len(rows):,} rows have no time in ISO 8601, so a temporal split cannot place them: "
            "map their time under fetch.sources.<name>.columns, or take another split.strategy in configs/data.yaml."
        )
