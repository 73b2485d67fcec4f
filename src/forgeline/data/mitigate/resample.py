"""Balanced resampling: as many training rows of each group, by leaving rows out or repeating them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Assess, Resample
from forgeline.data import table
from forgeline.data.bias.groups import Rows, places
from forgeline.data.mitigate.contract import Tables


class Share(NamedTuple):
    """How often a group's rows are taken: `times` each, and once more up to a place in the order of draws."""

    times: int
    last: int


def resample(tables: Tables, settings: Resample, config: Assess) -> Tables:
    """Return the tables with equal numbers of rows of each group.

    Rows are drawn by the hash of their ids, so that neither their order nor other rows' texts matter. Rows of
    no group, or of several, stay. A copy has an id of its own, and it and its original tell in
    `origin.copies` how many they are. In memory are 8 bytes a row.
    """
    shares = _shares(tables, settings, config)

    def resampled() -> Iterator[pyarrow.Table]:
        for rows in tables():
            yield _take(rows, shares, settings.group, config)

    return resampled


def _shares(tables: Tables, settings: Resample, config: Assess) -> dict[str, Share]:
    drawn: dict[str, list[NDArray[numpy.uint64]]] = defaultdict(list)
    for rows in tables():
        values, draws = _drawn(rows, settings.group, config)
        for value in values.drop_nulls().unique():
            drawn[value].append(draws[(values == value).fill_null(False).to_numpy()])
    drawn.pop("several", None)
    orders = {value: numpy.sort(numpy.concatenate(pieces)) for value, pieces in drawn.items()}
    sizes = [len(order) for order in orders.values()]
    target = (min if settings.to == "smallest" else max)(sizes, default=0)
    return {
        value: Share(target // len(order), int(order[target % len(order) - 1]) if target % len(order) else -1)
        for value, order in orders.items()
    }


def _take(rows: pyarrow.Table, shares: dict[str, Share], group: str, config: Assess) -> pyarrow.Table:
    values, draws = _drawn(rows, group, config)
    times = [
        shares[value].times + (int(draw) <= shares[value].last) if value in shares else 1
        for value, draw in zip(values.to_list(), draws, strict=True)
    ]
    once = rows.filter(pyarrow.array([count == 1 for count in times]))
    more = table.to_rows(rows.filter(pyarrow.array([count > 1 for count in times])))
    copies = [
        {**row, "id": row["id"] if number == 0 else f"{row['id']}+{number + 1}"}
        | {"origin": {**row.get("origin", {}), "copies": count}}
        for row, count in zip(more, (count for count in times if count > 1), strict=True)
        for number in range(count)
    ]
    return pyarrow.concat_tables([once, table.from_rows(copies)]) if copies else once


def _drawn(rows: pyarrow.Table, group: str, config: Assess) -> tuple[polars.Series, NDArray[numpy.uint64]]:
    seen = Rows(rows, config)
    return seen.values(group), places(seen.frame["id"])
