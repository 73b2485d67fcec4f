"""The training split: what the benchmarks and the mixture leave of it, mitigated."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pyarrow

from forgeline.config.schema import Data
from forgeline.data import engine, table
from forgeline.data.mitigate import Tables, mitigate
from forgeline.data.splits.contamination import Seen, look_up
from forgeline.data.splits.deal import CONTAMINATED, LEFT_OUT, TRAIN, Fates
from forgeline.data.splits.dealt import Dealt, Mask
from forgeline.data.splits.index import HeldOut
from forgeline.data.splits.keys import Rows
from forgeline.data.splits.mix import interleave, lowest, quotas
from forgeline.errors import DataError


class Extract(NamedTuple):
    """A part, and the part for its training rows."""

    dealt: Dealt
    target: Path


def decontaminate(fates: Fates, tasks: list[Seen], benchmarks: list[HeldOut], parts: list[Dealt]) -> None:
    """Mark the training rows that have a prompt or conversation of a benchmark, or nearly."""
    for task, part in zip(tasks, parts, strict=True):
        numbers = part.start + numpy.flatnonzero(fates[part.start : part.stop] == TRAIN)
        for held in benchmarks:
            fates[numbers[numpy.load(task.file(held, "alike"))]] = CONTAMINATED


def mix(fates: Fates, rows: Rows, parts: list[Dealt], config: Data) -> dict[str, int]:
    """Mark the training rows beyond what the sources' weights allow; return how many, by source.

    Raises:
        DataError: if a weighted source has no training row.
    """
    weights = {name: source.weight for name, source in config.fetch.sources.items() if source.weight is not None}
    if not weights:
        return {}
    numbers = {
        source: numpy.concatenate(
            [numpy.arange(part.start, part.stop)[fates[part.start : part.stop] == TRAIN] for part in found]
        )
        for source, found in groupby(parts, key=lambda part: part.source)
    }
    if bare := [name for name in weights if not len(numbers.get(name, ()))]:
        raise DataError(f"No training row comes from {', '.join(bare)}, so no mixture has its weight: take it out.")
    wanted = quotas({source: len(found) for source, found in numbers.items()}, weights)
    for source, found in numbers.items():
        fates[found[~lowest(rows["rank"][found], wanted[source])]] = LEFT_OUT
    return {source: len(found) - wanted[source] for source, found in numbers.items()}


def assemble(parts: list[Dealt], held_out: list[HeldOut], config: Data, folder: Path) -> tuple[Tables, dict[str, Any]]:
    """Return the training split, sources interleaved and bias mitigated, and the report of the mitigation.

    Rows that mitigation has changed into what a held-out set says are left out, and counted in the report.
    """
    tasks = [Extract(part, folder / f"rows/{part.source}/{number:05}.parquet") for number, part in enumerate(parts)]
    counts = list(engine.run(extract, tasks, config, "training rows"))
    rows = interleave([task.target for task in tasks], counts)
    tables, report = mitigate(rows, config)
    if not report:
        return tables, {}
    made: list[Path] = []
    for changed in tables():
        made.append(folder / f"mitigated/{len(made):05}.parquet")
        table.write(made[-1], changed)
    looked = [Seen(path, held_out, config.split.near_duplicates, path.with_suffix("")) for path in made]
    for _ in engine.run(look_up, looked, config, "mitigated rows"):
        pass
    clean = [(task, ~_repeats(task, config)) for task in looked]
    return partial(_filtered, clean), {**report, "left_out_as_leaks": sum(int((~mask).sum()) for _, mask in clean)}


def extract(task: Extract) -> int:
    """Write a part's training rows, and return how many they are."""
    rows = task.dealt.table(task.dealt.array("fate") == TRAIN)
    table.write(task.target, rows)
    return int(rows.num_rows)


def _repeats(task: Seen, config: Data) -> Mask:
    """Return a mask of the rows that repeat a split's prompt or conversation, or a benchmark's even nearly."""
    counted = [held for held in task.against if config.split.decontaminate or not held.is_benchmark]
    masks = [numpy.load(task.file(held, "alike" if held.is_benchmark else "same")) for held in counted]
    repeats: Mask = numpy.logical_or.reduce(masks)
    return repeats


def _filtered(parts: list[tuple[Seen, Mask]]) -> Iterator[pyarrow.Table]:
    for task, mask in parts:
        yield task.table().filter(pyarrow.array(mask))
