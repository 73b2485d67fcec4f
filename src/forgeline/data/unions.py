"""Disjoint sets over row numbers (union-find with path halving), compiled.

`parent` holds for each row a row of its set, at first the row itself; a set's root is its lowest row.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy
from numpy.typing import NDArray

Rows = NDArray[Any]  # integers of 32 or 64 bits


@numba.njit(cache=True, nogil=True)
def unite(parent: Rows, left: Rows, right: Rows) -> None:
    """Join the sets of each pair of rows."""
    for pair in range(len(left)):
        one, other = _root(parent, left[pair]), _root(parent, right[pair])
        parent[max(one, other)] = min(one, other)


@numba.njit(cache=True, nogil=True)
def roots(parent: Rows, rows: Rows) -> Rows:
    """Return the root of each of some rows."""
    out = numpy.empty_like(rows)
    for place in range(len(rows)):
        out[place] = _root(parent, rows[place])
    return out


@numba.njit(cache=True, nogil=True)
def _root(parent: Rows, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
