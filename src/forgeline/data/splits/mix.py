"""The mixture of the training split: how much of each source, and in what order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy
import pyarrow
from numpy.typing import NDArray

from forgeline.data import table
from forgeline.data.kernels import Hashes


def quotas(rows: dict[str, int], weights: dict[str, float]) -> dict[str, int]:
    """Return how many rows of each source make the largest mixture in which they stand as their weights.

    No row is used twice, so the source with the fewest rows for its weight is used up, and sets the
    size of the rest. Without weights, all rows of all sources are used.
    """
    if not weights:
        return rows
    size = min(count / weights[source] for source, count in rows.items())
    # The source that sets the size is used up, whatever the rounding of the product.
    return {source: min(count, math.floor(weights[source] * size + 1e-6)) for source, count in rows.items()}


def lowest(rank: Hashes, count: int) -> NDArray[numpy.bool]:
    """Return a mask of the rows with the lowest ranks: a sample that the order of rows does not change."""
    chosen = numpy.zeros(len(rank), bool)
    chosen[numpy.argsort(rank, kind="stable")[:count]] = True
    return chosen


def interleave(parts: list[Path], rows: list[int]) -> Callable[[], Iterator[pyarrow.Table]]:
    """Return a reader of parts, given with their numbers of rows, whose sources alternate.

    A part's folder is its source. Every beginning of what is read has about the same mixture as the
    whole; within a source, rows stay in order.
    """
    by_source = [list(found) for _, found in groupby(zip(parts, rows, strict=True), key=lambda item: item[0].parent)]
    counts = [sum(count for _, count in found) for found in by_source]
    positions = numpy.concatenate([(numpy.arange(count) + 0.5) / count for count in counts])
    owners = numpy.repeat(numpy.arange(len(counts), dtype=numpy.uint16), counts)
    turns = owners[numpy.argsort(positions, kind="stable")]
    return partial(_alternate, [[path for path, _ in found] for found in by_source], turns)


def _alternate(sources: list[list[Path]], turns: NDArray[numpy.uint16]) -> Iterator[pyarrow.Table]:
    streams = [_Stream(paths) for paths in sources]
    for start in range(0, len(turns), table.PART_ROWS):
        chunk = turns[start : start + table.PART_ROWS]
        drawn = [stream.take(int((chunk == number).sum())) for number, stream in enumerate(streams)]
        # Concatenated, the rows stand source by source: this is where each of them belongs.
        places = numpy.empty(len(chunk), numpy.int64)
        places[numpy.argsort(chunk, kind="stable")] = numpy.arange(len(chunk))
        yield pyarrow.concat_tables(drawn).take(places)


class _Stream:
    """The rows of parts one after the other, in tables of any length."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = iter(paths)
        self.held = table.SCHEMA.empty_table()

    def take(self, count: int) -> pyarrow.Table:
        """Return the next rows."""
        while self.held.num_rows < count:
            self.held = pyarrow.concat_tables([self.held, table.read(next(self.paths))])
        taken, self.held = self.held.slice(0, count), self.held.slice(count)
        return taken
