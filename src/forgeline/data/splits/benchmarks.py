"""Benchmark files as parts of records, repaired like the training rows that they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars

from forgeline.config.schema import Data, Source
from forgeline.data import table
from forgeline.data.ingest.parts import Reading, records
from forgeline.data.ingest.sources import examined, shape_of_source
from forgeline.data.layout import BENCHMARKS
from forgeline.data.repair import repair_texts
from forgeline.errors import DataError


def read_benchmark(name: str, root: Path, config: Data, folder: Path) -> list[Path]:
    """Write the records of a benchmark file to parts below a folder, and return them.

    The file may be in any format and shape that a source may have.

    Raises:
        DataError: if the file is missing, or none of its rows is a record.
    """
    named = f"{BENCHMARKS}/{config.split.benchmarks[name]}"
    if not (root / named).is_file():
        raise DataError(f"{named} does not exist: put the benchmark {name} there, or leave it out of split.benchmarks.")
    source = Source(uri=[named])
    [file] = files = examined(source, [(named, root / named)])
    rows = records(file, Reading(name, shape_of_source(source, files), source.columns, None))
    readable = (row for row in rows if "fault" not in row)
    parts: list[Path] = []
    while found := list(islice(readable, table.PART_ROWS)):
        parts.append(folder / f"{len(parts):05}.parquet")
        table.write(parts[-1], table.from_rows(_repaired(found, config)))
    if not parts:
        raise DataError(f"{named} holds no row that can be read as a record: `forgeline data preview` shows why.")
    return parts


def _repaired(rows: list[dict[str, Any]], config: Data) -> Iterator[dict[str, Any]]:
    lists = [[*(turn["content"] for turn in row["messages"]), *row.get("references", [])] for row in rows]
    texts = polars.Series([text for texts in lists for text in texts], dtype=polars.String)
    repaired = iter(repair_texts(texts, config.clean.repair).to_list())
    for row in rows:
        messages = [{**turn, "content": next(repaired)} for turn in row["messages"]]
        yield {**row, "messages": messages, "references": [next(repaired) for _ in row.get("references", [])]}
