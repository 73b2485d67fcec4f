"""Stage 4: deal components to splits, for good; look for leaks; mix and mitigate the training split; write the card."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Data
from forgeline.data import charts, engine, table
from forgeline.data.card import write_card
from forgeline.data.kernels import Hashes
from forgeline.data.layout import CACHE, KEPT, NAMES, REPORTS, SPLITS
from forgeline.data.splits.benchmarks import read_benchmark
from forgeline.data.splits.contamination import Seen, measure
from forgeline.data.splits.deal import TEST, TRAIN, VALIDATION, Fates, deal
from forgeline.data.splits.dealt import Dealt, keep
from forgeline.data.splits.frozen import beginnings, read_frozen
from forgeline.data.splits.held_out import merge
from forgeline.data.splits.index import HeldOut, build
from forgeline.data.splits.keys import LINK, ROW, Rows, Scan, components, scan
from forgeline.data.splits.train import assemble, decontaminate, mix
from forgeline.data.table import save_array
from forgeline.errors import DataError
from forgeline.records import write_json


def split(root: Path, config: Data) -> dict[str, Any]:
    """Write the three splits, their report and the data card, and return the report.

    Raises:
        DataError: if a split would be empty, or rows lack what the strategy or the mixture needs.
    """
    report, lengths = split_rows(root, config)
    references = Counter({int(replies): prompts for replies, prompts in report["test_references"].items()})
    charts.splits(root / REPORTS, lengths, references)
    write_card(root, config)
    return report


def split_rows(root: Path, config: Data) -> tuple[dict[str, Any], dict[str, Counter[int]]]:
    """Write the splits and their report; return it, and for each split the records by length of completion.

    Every kept row is dealt to a split, left out of train for repeating a benchmark (`decontaminated`), or
    left out for the mixture (`left_out_by_mix`); the report's `dealt` counts them. A held-out record
    stands for all the rows of its prompt.
    """
    folder = root / CACHE / "split"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return _split(root, config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _split(root: Path, config: Data, folder: Path) -> tuple[dict[str, Any], dict[str, Counter[int]]]:
    frozen = read_frozen(root)
    parts, fates, dealt = _dealt(root, config, folder, beginnings(frozen))
    save_array(folder / "fate.npy", fates)
    # Mapped: what follows needs little of them at a time.
    rows, component = (numpy.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "component"))
    for fate in (VALIDATION, TEST):
        _require(fates, fate, component)
    merged = merge(parts, int((fates != TRAIN).sum()), folder / "held_out", config)
    sets, tasks, leaks = _leaks(root, config, folder, parts, merged)
    benchmarks = [held for held in sets if held.is_benchmark]
    if config.split.decontaminate:
        decontaminate(fates, tasks, benchmarks, parts)
    left_out = mix(fates, rows, parts, config)
    save_array(folder / "fate.npy", fates)
    _require(fates, TRAIN, component)
    train, mitigation = assemble(parts, sets, config, folder / "train")
    lengths: dict[str, Counter[int]] = {name: Counter() for name in NAMES}
    records = {name: map(table.read, merged[name]) for name in merged} | {"train": train()}
    written = {name: table.write_jsonl(root / SPLITS[name], _tallied(records[name], lengths[name])) for name in NAMES}
    references = _references(merged["test"])
    between = leaks.pop("between")
    report = {
        "rows": written,
        "keys": {name: len(numpy.unique(component[fates == fate])) for fate, name in enumerate(NAMES)},
        "dealt": {name: int((fates == fate).sum()) for fate, name in enumerate((*NAMES, "decontaminated", "left_out"))},
        **dealt,
        "frozen": {"keys": len(frozen), "rows": int(rows["frozen"].sum())},
        "test_references": {str(count): references[count] for count in sorted(references)},
        "test_leakage": leaks["test"]["leaks"] + between["leaks"],
        "validation_leakage": leaks["validation"]["leaks"],
        "test_replies_seen_in_train": leaks["test"]["reply"],
        "left_out_by_mix": left_out,
        "mitigation": mitigation,
        "leakage": {name: leaks[name] for name in merged},
        "benchmarks": {name: leaks[held.name] for name, held in zip(config.split.benchmarks, benchmarks, strict=True)},
    }
    write_json(root / REPORTS / "split.json", report)
    return report, lengths


def _dealt(root: Path, config: Data, folder: Path, frozen: Hashes) -> tuple[list[Dealt], Fates, dict[str, Any]]:
    """Return the kept parts, the split of each row, and what the strategy reports; the rows' hashes are on disk."""
    parts, rows, links, strata = _scanned(root, config, folder, frozen)
    component = components(rows, links)
    del links
    keep(parts, rows, component)
    return parts, *deal(rows, component, config.split, strata)


def _scanned(
    root: Path, config: Data, folder: Path, frozen: Hashes
) -> tuple[list[Dealt], Rows, NDArray[numpy.void], dict[int, str]]:
    """Return the kept parts, their rows and links as hashes, and the names of strata."""
    save_array(folder / "frozen.npy", frozen)
    paths = table.parts(root / KEPT)
    tasks = [
        Scan(path, folder / f"scan/{number:05}", config.split, folder / "frozen.npy")
        for number, path in enumerate(paths)
    ]
    scanned = list(engine.run(scan, tasks, config, "keys"))
    starts = numpy.cumsum([0, *(count for count, _ in scanned)]).tolist()
    rows = numpy.empty(starts[-1], ROW)
    links = [numpy.zeros(0, LINK)]
    for task, start, stop in zip(tasks, starts, starts[1:], strict=False):
        rows[start:stop] = numpy.load(task.target.with_suffix(".rows.npy"))
        links.append(numpy.load(task.target.with_suffix(".links.npy")))
        links[-1]["row"] += start
    strata = {code: name for _, names in scanned for code, name in names.items()}
    parts = [Dealt(path, start, stop, folder) for path, start, stop in zip(paths, starts, starts[1:], strict=False)]
    return parts, rows, numpy.concatenate(links), strata


def _leaks(
    root: Path, config: Data, folder: Path, parts: list[Dealt], merged: dict[str, list[Path]]
) -> tuple[list[HeldOut], list[Seen], dict[str, dict[str, Any]]]:
    """Return the held-out sets, the look-ups of the training rows, and what all have in common.

    `between` is what test has in common with validation.
    """
    near = config.split.near_duplicates
    found = {
        f"benchmark.{name}": read_benchmark(name, root, config, folder / f"benchmarks/{name}")
        for name in config.split.benchmarks
    }
    sets = [build(name, made, folder / f"index/{name}", near, config) for name, made in {**merged, **found}.items()]
    tasks = [Seen(part, sets, near, folder / f"met/{number:05}") for number, part in enumerate(parts)]
    test = [held for held in sets if held.name == "test"]
    between = [
        Seen(part, test, near, folder / f"between/{number:05}") for number, part in enumerate(merged["validation"])
    ]
    leaks = measure(tasks, sets, config)
    return sets, tasks, {**leaks, "between": measure(between, test, config)["test"]}


def _require(fates: Fates, fate: int, component: Hashes) -> None:
    if not (fates == fate).any():
        raise DataError(
            f"The {NAMES[fate]} split is empty ({len(fates):,} rows, {len(numpy.unique(component)):,} keys): "
            "add data, or give it a larger share under split in configs/data.yaml."
        )


def _tallied(tables: Iterable[pyarrow.Table], lengths: Counter[int]) -> Iterator[pyarrow.Table]:
    """Yield tables, and count the records by the characters of their completion on the way."""
    for rows in tables:
        last = polars.Series(rows["messages"]).list.last().struct.field("content").str.len_chars()
        lengths.update(last.to_list())
        yield rows


def _references(parts: list[Path]) -> Counter[int]:
    return Counter(
        count for part in parts for count in polars.Series(table.read(part, ["references"])["references"]).list.len()
    )
