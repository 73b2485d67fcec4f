"""The texts of a batch of records as columns: turns, joined turns, and everything that a model may see."""

from __future__ import annotations

from typing import NamedTuple

import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.data import table


class Turns(NamedTuple):
    """The turns of a batch of conversations: those of row i lie at offsets[i] to offsets[i + 1]."""

    offsets: NDArray[numpy.int64]
    roles: polars.Series
    contents: polars.Series

    @classmethod
    def of(cls, messages: pyarrow.ChunkedArray) -> Turns:
        """Return the turns of a column of messages without nulls."""
        array = messages.combine_chunks()
        offsets = array.offsets.to_numpy().astype(numpy.int64)
        flat = array.flatten()
        roles, contents = (polars.Series(name, flat.field(name)) for name in ("role", "content"))
        return cls(offsets - offsets[0], roles.cast(polars.String), contents.cast(polars.String))

    @property
    def last(self) -> NDArray[numpy.int64]:
        """Where the completions stand."""
        return self.offsets[1:] - 1

    def column(self) -> pyarrow.Array:
        """Return the turns as a column of messages."""
        fields = [series.to_arrow().cast(pyarrow.string()) for series in (self.roles, self.contents)]
        flat = pyarrow.StructArray.from_arrays(fields, names=["role", "content"])
        return pyarrow.ListArray.from_arrays(pyarrow.array(self.offsets, pyarrow.int32()), flat).cast(table.TURNS)

    def joined(self, turns: polars.Series, keep: polars.Series | None = None) -> polars.Series:
        """Return one text a row: its turns, or those to keep, on lines of their own."""
        if keep is not None:
            turns = polars.select(polars.when(keep).then(turns)).to_series()
        lists = pyarrow.LargeListArray.from_arrays(
            pyarrow.array(self.offsets), turns.to_arrow().cast(pyarrow.large_string())
        )
        return polars.Series(lists).list.join("\n", ignore_nulls=True)

    def is_last(self) -> polars.Series:
        """Return for each turn whether it is a completion."""
        mask = numpy.zeros(len(self.contents), dtype=bool)
        mask[self.last] = True
        return polars.Series(mask)


def flat_texts(rows: pyarrow.Table, name: str) -> polars.Series:
    """Return all texts of the column `messages`, `references` or `rejected`."""
    column = rows.column(name)
    if name == "messages":
        return Turns.of(column).contents
    flat = column.combine_chunks().flatten() if name == "references" else column.drop_null()
    return polars.Series(flat, dtype=polars.String)
