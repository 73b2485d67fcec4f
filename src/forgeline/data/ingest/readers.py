"""The rows of a file as they stand there, one after the other."""

from __future__ import annotations

import csv
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow
from pyarrow import parquet

from forgeline.config.schema import Format
from forgeline.data.ingest.formats import File, damage_reported
from forgeline.data.ingest.shapes import shape_of
from forgeline.data.ingest.streams import BLOCK, MAX_LINE, Overlong, blocks, lines, open_stream
from forgeline.data.ingest.values import Misfit, kind
from forgeline.errors import DataError

MAX_WHOLE = 256 << 20  # bytes of a JSON document, which must be in memory to be read
SHOWN = 2000  # bytes kept of a line or a text that is too long
BATCH = 256  # rows of a columnar file that become objects at a time


@dataclass(frozen=True)
class Unreadable:
    """Why there is no value."""

    reason: str


class Row(NamedTuple):
    """The value at a line (or the n-th row), and the line as it stands where the value does not say it all."""

    number: int
    value: Any
    raw: bytes | None = None


def read(file: File, span: tuple[int, int] | None = None, first: int = 1) -> Iterator[Row]:
    """Yield the rows of a file, or of a span of its bytes that begins at line `first`.

    A text file is one row. A line that cannot be read is a row whose value is `Unreadable`.

    Raises:
        DataError: if the file breaks off, is damaged, or is not of its format.
    """
    count = 0
    with damage_reported(file.name, lambda: count):
        for row in _rows(file, span, first):
            yield row
            count += 1


def _rows(file: File, span: tuple[int, int] | None, first: int) -> Iterator[Row]:
    if file.format == "jsonl":
        return _read_jsonl(blocks(file.path, file.compression, span), first)
    readers: dict[str, Callable[[File], Iterator[Row]]] = {
        "json": _read_json, "csv": _read_csv, "tsv": _read_csv,
        "parquet": _read_columnar, "arrow": _read_columnar, "text": _read_text,
    }  # fmt: skip
    return readers[file.format](file)


def _read_jsonl(chunks: Iterator[bytes], first: int) -> Iterator[Row]:
    for number, line in enumerate(lines(chunks), start=first):
        if isinstance(line, Overlong):
            yield Row(number, _too_long(line.size), line.start[:SHOWN])
        elif line and not line.isspace():
            try:
                yield Row(number, orjson.loads(line), line)
            except orjson.JSONDecodeError:
                yield Row(number, _parse_leniently(line), line)


def _parse_leniently(text: bytes) -> Any:
    """Return the value of JSON with NaN, bare control characters or halves of surrogate pairs in it."""
    try:
        return json.loads(text.decode("utf-8"), strict=False)
    except UnicodeDecodeError as fault:
        return _not_utf8(fault)
    except json.JSONDecodeError as fault:
        place = f"column {fault.colno}" if fault.lineno == 1 else f"line {fault.lineno}, column {fault.colno}"
        return Unreadable(f"not JSON: {fault.msg[:1].lower()}{fault.msg[1:]} at {place}")
    except (RecursionError, ValueError) as fault:  # nested too deeply, a number of too many digits
        return Unreadable(f"not JSON that can be read: {fault}")


def _read_json(file: File) -> Iterator[Row]:
    text = bytearray()
    for chunk in blocks(file.path, file.compression):
        text += chunk
        if len(text) > MAX_WHOLE:
            raise DataError(
                f"{file.name} holds more than {MAX_WHOLE >> 20} MB of JSON in one piece, which must be in memory to be "
                "read: make it JSON lines, such as by `jq -c '.[]'`."
            )
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = _parse_leniently(bytes(text))
    if isinstance(value, Unreadable):
        raise DataError(f"{file.name} is {value.reason}: mend the file or get it again.")
    if isinstance(value, dict):
        value = [value] if shape_of(value) else _only_list(file.name, value)
    if not isinstance(value, list):
        raise DataError(f"{file.name}: expected a JSON array of rows, or an object with one; found {kind(value)}.")
    for number, row in enumerate(value, start=1):
        yield Row(number, row)


def _only_list(name: str, value: dict[str, Any]) -> list[Any]:
    lists = [
        field for field, rows in value.items() if isinstance(rows, list) and any(isinstance(r, dict) for r in rows)
    ]
    if len(lists) != 1:
        raise DataError(
            f"{name}: expected an object with one list of rows; its fields {', '.join(value)} hold {len(lists)}: "
            "make it a JSON array or JSON lines."
        )
    rows: list[Any] = value[lists[0]]
    return rows


class _CsvLines:
    """Lines as text, and where the reader is. One that raises is passed over: the next can be asked for."""

    def __init__(self, file: File) -> None:
        self.lines = lines(blocks(file.path, file.compression))
        self.number = 0
        self.line = b""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        if isinstance(line, Overlong):
            self.line = line.start[:SHOWN]
            raise Misfit(_too_long(line.size).reason)
        self.line = line
        try:
            return line.decode("utf-8") + "\n"
        except UnicodeDecodeError as fault:
            raise Misfit(_not_utf8(fault).reason) from None


def _read_csv(file: File) -> Iterator[Row]:
    """Yield a mapping for each row below the header; an empty cell is null."""
    csv.field_size_limit(MAX_LINE)
    source = _CsvLines(file)
    try:
        top = next(source, "")
    except Misfit as fault:
        raise DataError(f"{file.name}, line 1: {fault}.") from None
    delimiter = "\t" if file.format == "tsv" else max(",;\t", key=top.count)
    header = [name.strip() for name in next(csv.reader([top], delimiter=delimiter), [])]
    if repeated := {name for name in header if header.count(name) > 1}:
        raise DataError(f"{file.name}, line 1: more than one column is called {', '.join(sorted(repeated))}.")
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        number = source.number + 1
        try:
            cells = next(reader, None)
        except (Misfit, csv.Error) as fault:
            end = f" (up to line {source.number})" if source.number > number else ""
            yield Row(number, Unreadable(f"{fault}{end}"), source.line)
            continue
        if cells is None:
            return
        if cells and len(cells) != len(header):
            reason = f"expected {len(header)} cells, as in the header; found {len(cells)}"
            yield Row(number, Unreadable(reason), delimiter.join(cells).encode())
        elif cells:
            yield Row(number, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _read_columnar(file: File) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="forgeline-") as folder:
        path = file.path if file.compression is None else _decompress(file, Path(folder) / "file")
        number = itertools.count(1)
        for batch in _batches(file.format, path):
            yield from (Row(next(number), row) for row in batch.to_pylist())


def _batches(form: Format, path: Path) -> Iterator[Any]:
    if form == "parquet":
        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=BATCH, use_threads=False)
        return
    with pyarrow.OSFile(str(path)) as source:
        if source.read(6) == b"ARROW1":
            table = pyarrow.ipc.open_file(source)
            whole = (table.get_batch(index) for index in range(table.num_record_batches))
        else:
            source.seek(0)
            whole = iter(pyarrow.ipc.open_stream(source))
        for batch in whole:
            yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def _decompress(file: File, target: Path) -> Path:
    """Write a compressed file's bytes to one that can be read from any place."""
    with open_stream(file.path, file.compression) as stream, target.open("wb") as plain:
        while block := stream.read(BLOCK):
            plain.write(block)
    return target


def _read_text(file: File) -> Iterator[Row]:
    text, size = bytearray(), 0
    for chunk in blocks(file.path, file.compression):
        size += len(chunk)
        text += chunk if size <= MAX_LINE else b""
    if size > MAX_LINE:
        yield Row(1, _too_long(size), bytes(text[:SHOWN]))
        return
    try:
        yield Row(1, {"text": text.decode("utf-8")})
    except UnicodeDecodeError as fault:
        yield Row(1, _not_utf8(fault), bytes(text))


def _too_long(size: int) -> Unreadable:
    return Unreadable(
        f"{math.ceil(size / (1 << 20))} MB in one piece; more than {MAX_LINE >> 20} MB are not read: split it"
    )


def _not_utf8(fault: UnicodeDecodeError) -> Unreadable:
    return Unreadable(f"not UTF-8 at byte {fault.start + 1} (0x{fault.object[fault.start]:02x}): save it as UTF-8")
