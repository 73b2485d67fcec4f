"""Parse files into parts. A part is a span of lines or of rows, so who parses it changes nothing."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy

from forgeline.config.schema import Column, Shape
from forgeline.data import table
from forgeline.data.ingest.formats import File, is_splittable
from forgeline.data.ingest.readers import Row, Unreadable, read
from forgeline.data.ingest.shapes import adapter, renamed
from forgeline.data.ingest.streams import BLOCK, MAX_LINE
from forgeline.data.ingest.values import Misfit, name_of

Record = dict[str, Any]

# Bytes of a span, with room for the line that passes it; what is parsed has about the same size.
SPAN = table.PART_BYTES - MAX_LINE


@dataclass(frozen=True)
class Survey:
    """A file's sha256, its size, and the (offset, line) at which each span of it begins."""

    digest: str
    size: int
    cuts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reading:
    """How the rows of a source become records."""

    source: str
    shape: Shape
    columns: Mapping[Column, str]
    system: str | None


@dataclass(frozen=True)
class Job:
    """Files to parse into the parts `<stem>-<number>.parquet` from a number on; or a span, which is one part."""

    reading: Reading
    files: tuple[File, ...]
    stem: Path
    number: int = 0
    span: tuple[int, int] | None = None
    first: int = 1


@dataclass(frozen=True)
class Parsed:
    """What a job has written."""

    rows: int
    malformed: int
    parts: tuple[str, ...]


def survey(file: File) -> Survey:
    """Read a file once for its digest and, if it is plain JSON lines, where its spans begin."""
    digest = hashlib.sha256()
    splittable = is_splittable(file)
    cuts = [(0, 1)]
    offset, counted = 0, 0  # bytes read, and lines ended in the span
    with file.path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            if splittable:
                ends = numpy.flatnonzero(numpy.frombuffer(block, numpy.uint8) == 10) + offset + 1
                counted = _cut(ends, counted, cuts)
            offset += len(block)
    if len(cuts) > 1 and cuts[-1][0] == offset:
        cuts.pop()
    return Survey(digest.hexdigest(), offset, tuple(cuts))


def _cut(ends: Any, counted: int, cuts: list[tuple[int, int]]) -> int:
    """Begin a span where the last one has all its rows or bytes; return the lines ended in the new one."""
    while True:
        start, line = cuts[-1]
        last = min(table.PART_ROWS - counted - 1, int(numpy.searchsorted(ends, start + SPAN)))
        if last >= len(ends):
            return counted + len(ends)
        cuts.append((int(ends[last]), line + counted + last + 1))
        ends, counted = ends[last + 1 :], 0


def parse(job: Job) -> Parsed:
    """Write the parts of a job, each whole or not at all.

    Raises:
        DataError: if a file breaks off, is damaged, or is not of its format.
    """
    gc.disable()  # rows hold no cycles, and looking for them in millions of objects costs an eighth of the time
    try:
        rows = chain.from_iterable(records(file, job.reading, job.span, job.first) for file in job.files)
        return write_parts(filled_parts(rows) if job.span is None else [list(rows)], job.stem, job.number)
    finally:
        gc.enable()


def write_parts(filled: Iterable[list[Record]], stem: Path, number: int = 0) -> Parsed:
    """Write the rows of each part that has some into `<stem>-<number>.parquet`, from a number on."""
    count = malformed = 0
    parts: list[str] = []
    for part in filter(None, filled):
        path = stem.with_name(f"{stem.name}-{number + len(parts):05d}.parquet")
        table.write(path, table.from_rows(part))
        parts.append(path.name)
        count += len(part)
        malformed += sum("fault" in row for row in part)
    return Parsed(count, malformed, tuple(parts))


def records(file: File, reading: Reading, span: tuple[int, int] | None = None, first: int = 1) -> Iterator[Record]:
    """Yield the rows of a file as records, or as the faults that they are, in the form of `data.table`.

    Raises:
        DataError: if the file breaks off, is damaged, or is not of its format.
    """
    adapt = adapter(reading.shape, reading.columns, reading.system)
    unit = "line" if file.format in {"jsonl", "csv", "tsv"} else "row"
    for row in read(file, span, first):
        if isinstance(row.value, Unreadable):
            record = _fault(row, row.value.reason)
        else:
            try:
                record = adapt(row.value)
            except Misfit as misfit:
                record = _fault(row, str(misfit))
                record |= _subject_of(row.value, reading.columns)
        if "fault" in record:
            record["fault"] = f"{file.name}, {unit} {row.number}: {record['fault']}"
        record["origin"] = {**record["origin"], "source": file.name, unit: row.number}
        record["source"] = reading.source
        yield record


def _fault(row: Row, reason: str) -> Record:
    """Return what is known of a row that is no record: why, and what stands there."""
    raw = row.raw
    if raw is None:
        raw = json.dumps(row.value, ensure_ascii=False, default=str).encode("utf-8", errors="replace")
    identity = hashlib.sha256(raw).hexdigest()[:16]
    reason = reason.encode("utf-8", errors="replace").decode()
    return {"id": identity, "fault": reason, "raw": raw.decode("utf-8", errors="replace"), "origin": {}}


def _subject_of(value: Any, columns: Mapping[Column, str]) -> Record:
    """Return whose row it is, if it says so, so that it can be erased like any other."""
    try:
        return {"subject": name_of("subject", renamed(value, columns)["subject"])}
    except (Misfit, KeyError, AttributeError, TypeError):  # no object, no subject, or none that is a name
        return {}


def filled_parts(rows: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield rows by part: as many as `PART_ROWS`, or as `PART_BYTES` hold."""
    part: list[Record] = []
    held = 0
    for row in rows:
        size = len(row["raw"]) if "fault" in row else sum(len(turn["content"]) for turn in row["messages"])
        if len(part) == table.PART_ROWS or (part and held + size > table.PART_BYTES):
            yield part
            part, held = [], 0
        part.append(row)
        held += size
    if part:
        yield part
