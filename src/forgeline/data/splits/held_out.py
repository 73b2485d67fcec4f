"""Validation and test: one record a prompt, with every accepted reply as a reference."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pyarrow
from pyarrow import ipc

from forgeline.config.schema import Data
from forgeline.data import engine, table
from forgeline.data.layout import NAMES
from forgeline.data.splits.dealt import Dealt
from forgeline.data.text import normalise

SCATTERED = table.SCHEMA.append(pyarrow.field("own_key", pyarrow.string()))
SCATTERED = SCATTERED.append(pyarrow.field("prompt", pyarrow.uint64())).append(pyarrow.field("rank", pyarrow.uint64()))


class Scatter(NamedTuple):
    """A part, into how many buckets its held-out rows go, and the file for them."""

    dealt: Dealt
    buckets: int
    target: Path


class Gather(NamedTuple):
    """Files of scattered rows, which of their batches to merge, and the part for the merged records."""

    scattered: list[Path]
    batch: int
    target: Path


def merge(parts: list[Dealt], rows: int, folder: Path, config: Data) -> dict[str, list[Path]]:
    """Return the parts of merged records of validation and test, written below a folder.

    Args:
        parts: all parts.
        rows: how many rows are held out; they go by buckets of what one process may hold.
        folder: where to work.
        config: the data line's configuration, for its engine.
    """
    buckets = rows // table.PART_ROWS + 1
    scattered = [folder / f"scattered/{number:05}.arrow" for number in range(len(parts))]
    tasks = [Scatter(part, buckets, target) for part, target in zip(parts, scattered, strict=True)]
    for _ in engine.run(scatter, tasks, config, "held-out rows"):
        pass
    merged = {name: [folder / f"{name}/{bucket:05}.parquet" for bucket in range(buckets)] for name in NAMES[1:]}
    targets = [target for name in merged for target in merged[name]]
    gathers = [Gather(scattered, number, target) for number, target in enumerate(targets)]
    for _ in engine.run(gather, gathers, config, "references"):
        pass
    return merged


def scatter(task: Scatter) -> None:
    """Write a part's held-out rows as an Arrow file with a batch for each split and bucket.

    Rows with equal prompts meet in one bucket, whichever part they come from.
    """
    fates, prompts = task.dealt.array("fate"), task.dealt.array("rows")["prompt"]
    bucket = numpy.minimum((prompts / 2**64 * task.buckets).astype(numpy.int64), task.buckets - 1)
    task.target.parent.mkdir(parents=True, exist_ok=True)
    held = (fates == 1) | (fates == 2)
    rows = task.dealt.table(held)
    added = [
        table.read(task.dealt.part, ["key"])["key"].filter(pyarrow.array(held)),
        pyarrow.array(prompts[held]),
        pyarrow.array(task.dealt.array("rows")["rank"][held]),
    ]
    rows = pyarrow.Table.from_arrays([*rows.columns, *added], schema=SCATTERED)
    partial = task.target.with_name(f"{task.target.name}.{os.getpid()}.part")
    with pyarrow.OSFile(str(partial), "wb") as file, ipc.new_file(file, SCATTERED) as sink:
        for fate in (1, 2):
            for number in range(task.buckets):
                chosen = rows.filter(pyarrow.array((fates[held] == fate) & (bucket[held] == number)))
                sink.write_batch(
                    pyarrow.RecordBatch.from_arrays(
                        [column.combine_chunks() for column in chosen.columns], schema=SCATTERED
                    )
                )
    os.replace(partial, task.target)


def gather(task: Gather) -> None:
    """Write one bucket's rows as merged records, in the order of their prompts' hashes."""
    batches = []
    for path in task.scattered:
        with pyarrow.memory_map(str(path)) as file:
            batches.append(ipc.open_file(file).get_batch(task.batch))
    rows = pyarrow.Table.from_batches(batches).sort_by([("prompt", "ascending"), ("rank", "ascending")])
    own_keys, prompts = rows["own_key"].to_pylist(), rows["prompt"].to_pylist()
    records = table.to_rows(rows.select(table.SCHEMA.names))
    table.write(task.target, table.from_rows(merge_rows(zip(records, prompts, own_keys, strict=True))))


def merge_rows(rows: Iterable[tuple[dict[str, Any], int, str]]) -> Iterator[dict[str, Any]]:
    """Yield one record for each prompt, with all its replies as references.

    Rows come with the hash of their prompt, which leaves the system turn out, and with their own key. The
    prompt's first row that nobody disliked gives the record. Disliked replies are no references, so a
    prompt that has no other has none. `origin` holds the rows, their own keys and their subjects.
    """
    prompts: dict[tuple[int, str], list[tuple[dict[str, Any], str]]] = {}
    for row, prompt, key in rows:
        system = "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "system")
        prompts.setdefault((prompt, _normalised(system)), []).append((row, key))
    for group in prompts.values():
        liked = [row for row, _ in group if row.get("label") is not False]
        references = [reply for row in liked for reply in [row["messages"][-1]["content"], *row["references"]]]
        origin: dict[str, Any] = {"rows": [row["id"] for row, _ in group], "keys": sorted({key for _, key in group})}
        if subjects := sorted({row["subject"] for row, _ in group if "subject" in row}):
            origin["subjects"] = subjects
        yield {**[*liked, group[0][0]][0], "references": list(dict.fromkeys(references)), "origin": origin}


_normalised = lru_cache(maxsize=1024)(normalise)  # few system turns stand in many rows
