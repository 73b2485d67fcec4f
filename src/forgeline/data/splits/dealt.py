"""A part of kept rows beside what was decided about each: what the passes after the dealing start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute

from forgeline.data import table
from forgeline.data.kernels import Hashes
from forgeline.data.splits.keys import Rows
from forgeline.data.splits.texts import find
from forgeline.data.table import save_array

NAMED = pyarrow.schema([("component", pyarrow.uint64()), ("key", pyarrow.string())])
Mask = NDArray[numpy.bool]


class Dealt(NamedTuple):
    """A part, the number of its first row among all rows and past its last, and the folder of the arrays."""

    part: Path
    start: int
    stop: int
    folder: Path

    @property
    def source(self) -> str:
        """The source's name, which is the folder of its parts."""
        return self.part.parent.name

    def array(self, name: str) -> NDArray[Any]:
        """Return the part's share of an array: rows, component or fate."""
        whole: NDArray[Any] = numpy.load(self.folder / f"{name}.npy", mmap_mode="r")
        return whole[self.start : self.stop]

    def table(self, mask: Mask) -> pyarrow.Table:
        """Return the rows of a mask, each under the key of its component."""
        chosen = table.read(self.part).filter(pyarrow.array(mask))
        named = table.read(self.folder / "keys.parquet")
        places = find(named["component"].to_numpy(), self.array("component")[mask])
        shared = named["key"].take(pyarrow.array(places, mask=places < 0))
        key = compute.coalesce(shared, chosen["key"])
        return chosen.set_column(chosen.schema.get_field_index("key"), "key", key)


def keep(parts: list[Dealt], rows: Rows, component: Hashes) -> None:
    """Write the arrays that the passes read, and which key a component of several goes by: the first placed."""
    folder = parts[0].folder
    save_array(folder / "rows.npy", rows)
    save_array(folder / "component.npy", component)
    several = numpy.unique(component[rows["place"] != component])
    found = [NAMED.empty_table()]
    for part in parts:
        held = part.array("component")
        naming = numpy.flatnonzero((part.array("rows")["place"] == held) & (find(several, held) >= 0))
        if len(naming):
            places, first = numpy.unique(held[naming], return_index=True)
            keys = table.read(part.part, ["key"])["key"].take(naming[first])
            found.append(pyarrow.Table.from_arrays([pyarrow.array(places), keys], schema=NAMED))
    named = pyarrow.concat_tables(found)
    _, first = numpy.unique(named["component"].to_numpy(), return_index=True)
    table.write(folder / "keys.parquet", named.take(first))
