"""The first rows of a source, as they would be parsed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
from pyarrow import parquet

from forgeline.config.schema import Data, Source
from forgeline.data import table
from forgeline.data.ingest.formats import File
from forgeline.data.ingest.parts import Reading, records
from forgeline.data.ingest.sources import examined, located, shape_of_source
from forgeline.data.multiwoz import adapt_templates


@dataclass(frozen=True)
class Preview:
    """What a source is taken for: its files and their formats, the rows' shape, and the first rows.

    A row that cannot be read has a `fault`, which names file, line and field, and what stands there as `raw`.
    """

    source: str
    files: list[tuple[str, str]]
    shape: str
    rows: list[dict[str, Any]]


def preview(name: str, source: Source, root: Path, count: int, config: Data | None = None) -> Preview:
    """Return the first rows of a source of a configuration, of any file, or of the line's own parts.

    Raises:
        SourceError: if the source cannot be resolved.
        DataError: if its files or rows are nothing known.
    """
    with TemporaryDirectory(prefix="forgeline-") as spool:
        found = located(source, root, Path(spool), preview=count)
        files = examined(source, found)
        if config and source.adapter == "multiwoz_templates":
            shape = "templates"
            rows = iter(adapt_templates(found, config.fetch.system, config.clean.max_references, config.fetch.seed))
        elif all(_is_part(file) for file in files):
            shape = "parts"
            rows = chain.from_iterable(map(_rows_of_part, files))
        else:
            reading = Reading(
                name, shape_of_source(source, files), source.columns, config.fetch.system if config else None
            )
            shape = reading.shape
            rows = chain.from_iterable(records(file, reading) for file in files)
        return Preview(name, [(file.name, file.described) for file in files], shape, list(islice(rows, count)))


def _is_part(file: File) -> bool:
    return file.described == "parquet" and set(table.SCHEMA.names) <= set(parquet.read_schema(file.path).names)


def _rows_of_part(file: File) -> Iterator[dict[str, Any]]:
    with parquet.ParquetFile(file.path) as part:
        for batch in part.iter_batches(batch_size=100):
            yield from table.to_rows(pyarrow.Table.from_batches([batch]))
