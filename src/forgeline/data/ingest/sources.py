"""The files of a source, and the shape of their rows."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

from forgeline.config.schema import Shape, Source
from forgeline.data.ingest.formats import File, examine, known_extension
from forgeline.data.ingest.readers import Unreadable, read
from forgeline.data.ingest.shapes import FIELDS, detect
from forgeline.data.ingest.sql import query_rows
from forgeline.data.layout import SOURCE
from forgeline.errors import DataError
from forgeline.sources import locate
from forgeline.sources.environment import shown

HEAD = 100  # rows that decide the shape of a source


def located(source: Source, root: Path, spool: Path, preview: int | None = None) -> list[tuple[str, Path]]:
    """Return the files of a source, each under a name that is the same on every machine.

    A folder stands for the readable files below it, sorted: those whose name tells a format or, if the
    source gives a format, all but hidden ones. What a query yields is written below `spool`. A preview of
    some rows asks a query for no more, and may look at any file.

    Raises:
        SourceError: if an address leads nowhere.
        DataError: if a file lies where DVC would not see it change, or a query fails.
    """
    found: dict[str, Path] = {}
    for number, uri in enumerate(source.uri):
        if source.query is not None:
            target = spool / f"{number}.jsonl"
            found[query_rows(uri, source.query, root, target, preview)] = target
            continue
        watched = preview is None and ("://" not in uri or uri.startswith("file:"))
        for name, path in locate(uri, root):
            files = _below(path, source) if path.is_dir() else [path]
            if not files:
                raise DataError(f"{shown(uri)} holds no file of a known format: give the source's `format`.")
            for file in files:
                if watched and not file.resolve().is_relative_to((root / SOURCE).resolve()):
                    raise DataError(
                        f"{file} lies outside {SOURCE}/, so DVC would not see it change: move or copy it there."
                    )
                found[name if file == path else f"{name}/{file.relative_to(path).as_posix()}"] = file
    return sorted(found.items()) if source.adapter == "records" else list(found.items())


def _below(folder: Path, source: Source) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    visible = (path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in visible if source.format or known_extension(path))


def examined(source: Source, files: list[tuple[str, Path]]) -> list[File]:
    """Return what each file is; raise DataError if one is nothing known."""
    form = "jsonl" if source.query is not None else source.format
    return [examine(name, path, form) for name, path in files]


def shape_of_source(source: Source, files: list[File]) -> Shape:
    """Return the given shape, or that of most of the first rows.

    Raises:
        DataError: if they have none, with the fields that they have.
    """
    if source.shape is not None:
        return source.shape
    head = [row.value for row in islice(chain.from_iterable(map(read, files)), HEAD)]
    if found := detect(head, source.columns):
        return found
    places = ", ".join(file.name for file in files[:3]) + (" and others" if len(files) > 3 else "")
    if not head:
        raise DataError(f"{places}: no rows.")
    known = "; ".join(f"{shape}: {', '.join(fields)}" for shape, fields in FIELDS.items())
    first = next((row for row in head if isinstance(row, dict)), head[0])
    said = f"has the fields {', '.join(first)}" if isinstance(first, dict) else "is no object with fields"
    shown_row = first.reason if isinstance(first, Unreadable) else first
    raise DataError(
        f"{places}: the first row {said}, which is none of the known shapes ({known}): name its fields by the "
        f"source's `columns`. The row: {shown_row!s:.200}"
    )
