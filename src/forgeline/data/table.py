"""Records as Arrow tables: the form in which the stages pass rows on, a part file at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import orjson
import polars
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from forgeline.errors import DataError

# A part holds no more than either; what one process holds at a time follows from them.
PART_ROWS = 20_000
PART_BYTES = 32 << 20

TURNS = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))

# The fields of a record; `groups` and `origin` are JSON objects. A row that could not be read as a
# record has a `fault`, and in `raw` what stood there; its messages are null.
SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("messages", TURNS),
        ("references", pyarrow.list_(pyarrow.string())),
        ("rejected", pyarrow.string()),
        ("label", pyarrow.bool_()),
        ("weight", pyarrow.float64()),
        ("key", pyarrow.string()),
        ("subject", pyarrow.string()),
        ("groups", pyarrow.string()),
        ("time", pyarrow.string()),
        ("source", pyarrow.string()),
        ("origin", pyarrow.string()),
        ("fault", pyarrow.string()),
        ("raw", pyarrow.string()),
    ]
)
JSON_FIELDS = ("groups", "origin")
DEFAULTS: dict[str, Any] = {"references": [], "weight": 1.0, "groups": {}, "origin": {}}


def from_rows(rows: Iterable[dict[str, Any]]) -> pyarrow.Table:
    """Return rows, given as mappings with the fields of `SCHEMA` or fewer, as a table."""
    rows = list(rows)
    columns = []
    for field in SCHEMA:
        name, default = field.name, DEFAULTS.get(field.name)
        values = [row.get(name, default) for row in rows]
        if field.name in JSON_FIELDS:
            values = [to_json(value) for value in values]
        columns.append(pyarrow.array(values, field.type))
    return pyarrow.Table.from_arrays(columns, schema=SCHEMA)


def to_rows(table: pyarrow.Table) -> Iterator[dict[str, Any]]:
    """Yield a table's rows as mappings, without what is null; the reverse of `from_rows`."""
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            for name in JSON_FIELDS:
                row[name] = orjson.loads(row[name])
            yield {name: value for name, value in row.items() if value is not None}


def to_json(value: Any) -> str:
    """Return a value as compact JSON, equal for equal values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def series(rows: pyarrow.Table, name: str) -> polars.Series:
    """Return a column as a series."""
    return polars.Series(name, rows.column(name))


def replace(rows: pyarrow.Table, name: str, values: polars.Series | pyarrow.Array) -> pyarrow.Table:
    """Return the rows with other values in a column."""
    field = rows.schema.field(name)
    array = values.to_arrow() if isinstance(values, polars.Series) else values
    return rows.set_column(rows.schema.get_field_index(name), field, array.cast(field.type))


def parts(folder: Path) -> list[Path]:
    """Return a folder's part files, in the order that every stage keeps.

    Raises:
        DataError: if there is none.
    """
    found = sorted(folder.rglob("*.parquet"))
    if not found:
        raise DataError(f"{folder} holds no data: run `forgeline data` to make it.")
    return found


def read(path: Path, columns: list[str] | None = None) -> pyarrow.Table:
    """Return a part file, or some of its columns.

    Raises:
        DataError: if it is damaged.
    """
    try:
        # One thread: the parts are what is worked on in parallel.
        return parquet.read_table(path, columns=columns, use_threads=False, partitioning=None)
    except (pyarrow.ArrowInvalid, OSError) as fault:
        raise DataError(f"{path} cannot be read ({fault}): delete it and run `forgeline data` again.") from None


def count(path: Path) -> int:
    """Return how many rows a part file holds."""
    return int(parquet.read_metadata(path).num_rows)


def write(path: Path, table: pyarrow.Table) -> None:
    """Write a part file, whole or not at all; equal tables give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        parquet.write_table(table, partial, compression="zstd", compression_level=1, use_dictionary=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `numpy.save` does, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        # Into a file of its own, numpy leaves the array cut short on a full disk and says nothing.
        with pyarrow.OSFile(str(partial), "wb") as file:
            numpy.save(file, array, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_jsonl(path: Path, tables: Iterable[pyarrow.Table]) -> int:
    """Write the records of tables as JSON lines, whole or not at all, and return how many they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    count = 0
    try:
        with partial.open("wb") as file:
            for table in tables:
                count += table.num_rows
                file.write(_lines(table).encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _lines(table: pyarrow.Table) -> str:
    """Return rows as JSON lines, without the columns that are null in all of them."""
    if not table.num_rows:
        return ""
    present = [name for name in table.column_names if table[name].null_count < table.num_rows]
    rows = polars.DataFrame(polars.from_arrow(table.select(present)))
    plain = polars.struct([name for name in present if name not in JSON_FIELDS]).struct.json_encode()
    lines: polars.Series = rows.select(
        polars.concat_str(
            plain.str.strip_suffix("}"),
            *(part for name in JSON_FIELDS for part in (polars.lit(f',"{name}":'), polars.col(name))),
            polars.lit("}\n"),
        )
    ).to_series()
    return str(lines.str.join("").item())
