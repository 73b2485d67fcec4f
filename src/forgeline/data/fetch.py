"""Stage 1: resolve the sources and parse what changed into parts of raw rows, dirt and all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from pyarrow import compute

from forgeline.config.schema import Data
from forgeline.data import engine, table
from forgeline.data.erasure import is_erased, tombstones
from forgeline.data.ingest.parts import Job, Parsed
from forgeline.data.ingest.plan import Templates, Unit, bundled, plan, run
from forgeline.data.layout import CACHE, RAW, REPORTS
from forgeline.errors import DataError
from forgeline.lineage import PACKAGE, file_digest, value_digest
from forgeline.records import write_json

# What makes parts of files: parts that other code has made are made again.
CODE = ("data/ingest/*.py", "data/multiwoz.py", "data/table.py", "data/text.py")

Copy = tuple[Path, Path]  # a part in the cache, and where it is published
Lost = tuple[int, int]  # rows of erased subjects, and how many of these were malformed


def fetch(root: Path, config: Data) -> dict[str, Any]:
    """Write the raw parts and return the report: by source the rows, and how many are malformed or erased.

    Files that were parsed before are not parsed again: the cache keeps their parts, under the digest of
    the files and the source's settings. No part holds rows of erased subjects.

    Raises:
        SourceError: if a source cannot be resolved.
        DataError: if a file lies where DVC would not see it change, is damaged, or holds nothing known.
    """
    erased = tombstones(root)
    cache, spool = root / CACHE / "raw", root / CACHE / "spool"
    try:
        units = plan(root, config, cache, spool)
        parsed = _parse(units, cache, config)
    finally:
        shutil.rmtree(spool, ignore_errors=True)  # what queries yielded; the parts hold it now
    if not any(one.rows for one in parsed):
        raise DataError(f"The sources {', '.join(config.fetch.sources)} hold no rows.")
    lost = _publish(root, units, parsed, erased, config)
    _prune(cache, units, parsed)
    report = _report(config, units, parsed, lost)
    write_json(root / REPORTS / "fetch.json", report)
    return report


def _parse(units: Sequence[Unit], cache: Path, config: Data) -> list[Parsed]:
    """Return what each unit holds, after parsing those whose parts are not in the cache."""
    code = value_digest({path.name: file_digest(path) for one in CODE for path in sorted(PACKAGE.glob(one))})
    kept = {unit.digest: found for unit in units if (found := _kept(unit, cache, code))}
    fresh = [unit for unit in units if unit.digest not in kept]
    jobs = [(job, unit.size // len(unit.jobs)) for unit in fresh for job in unit.jobs]
    tasks = [[job for job, _ in bundle] for bundle in bundled(jobs, lambda one: one[1])]
    done = (one for bundle in engine.run(_run, tasks, config, "fetch") for one in bundle)
    for unit in fresh:
        results = [next(done) for _ in unit.jobs]
        found = Parsed(
            sum(one.rows for one in results),
            sum(one.malformed for one in results),
            tuple(part for one in results for part in one.parts),
        )
        kept[unit.digest] = found
        entry = {"code": code, "rows": found.rows, "malformed": found.malformed, "parts": found.parts}
        write_json(_entry(unit, cache), entry)
    count = sum(len(unit.files) for unit in fresh)
    print(f"parsed {count:,} of {sum(len(unit.files) for unit in units):,} files", file=sys.stderr)
    return [kept[unit.digest] for unit in units]


def _run(jobs: Sequence[Job | Templates]) -> list[Parsed]:
    return [run(job) for job in jobs]


def _entry(unit: Unit, cache: Path) -> Path:
    """Return the file that says which parts a unit has, once all of them are there."""
    return cache / unit.source / f"{unit.digest}.json"


def _kept(unit: Unit, cache: Path, code: str) -> Parsed | None:
    path = _entry(unit, cache)
    if not path.exists():
        return None
    entry = orjson.loads(path.read_bytes())
    there = entry["code"] == code and all((path.parent / part).exists() for part in entry["parts"])
    return Parsed(entry["rows"], entry["malformed"], tuple(entry["parts"])) if there else None


def _publish(
    root: Path, units: Sequence[Unit], parsed: Sequence[Parsed], erased: frozenset[str], config: Data
) -> dict[str, Lost]:
    """Put the parts, less the rows of erased subjects, in place of those that were there; return what was lost."""
    raw = root / RAW
    staged, old = raw.with_name("raw.part"), raw.with_name("raw.old")
    for folder in (staged, old):
        shutil.rmtree(folder, ignore_errors=True)
    copies = []
    for unit, found in zip(units, parsed, strict=True):
        (staged / unit.source).mkdir(parents=True, exist_ok=True)
        kept = _entry(unit, root / CACHE / "raw").parent
        copies += [(kept / part, staged / unit.source / part) for part in found.parts]
    tasks = bundled(copies, lambda one: one[0].stat().st_size) if erased else [copies]
    lost: dict[str, Lost] = dict.fromkeys(config.fetch.sources, (0, 0))
    for done in engine.run(partial(_copy, erased=erased), tasks, config, "publish"):
        for source, (rows, malformed) in done:
            lost[source] = (lost[source][0] + rows, lost[source][1] + malformed)
    if raw.exists():
        raw.rename(old)
    staged.rename(raw)
    shutil.rmtree(old, ignore_errors=True)
    return lost


def _copy(copies: Sequence[Copy], erased: frozenset[str]) -> list[tuple[str, Lost]]:
    """Link each part, or write it without the rows of erased subjects."""
    lost = []
    for part, target in copies:
        gone = is_erased(table.read(part, ["subject"])["subject"], erased) if erased else None
        if gone is None or not compute.any(gone).as_py():
            _link(part, target)
            continue
        whole = table.read(part)
        if (left := whole.filter(compute.invert(gone))).num_rows:
            table.write(target, left)
        rows = whole.filter(gone)
        lost.append((target.parent.name, (rows.num_rows, rows.num_rows - rows["fault"].null_count)))
    return lost


def _link(part: Path, target: Path) -> None:
    """Give a part a second name, or copy it to where it cannot have one."""
    try:
        os.link(part, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(part, target)


def _prune(cache: Path, units: Sequence[Unit], parsed: Sequence[Parsed]) -> None:
    """Delete from the cache what this run has not used."""
    used = {_entry(unit, cache) for unit in units}
    used |= {cache / unit.source / part for unit, found in zip(units, parsed, strict=True) for part in found.parts}
    for path in cache.glob("*/*"):
        if path not in used:
            path.unlink()


def _report(config: Data, units: Sequence[Unit], parsed: Sequence[Parsed], lost: dict[str, Lost]) -> dict[str, Any]:
    sources: dict[str, dict[str, Any]] = {}
    for name, source in config.fetch.sources.items():
        own = [(unit, found) for unit, found in zip(units, parsed, strict=True) if unit.source == name]
        files = [file for unit, _ in own for file in unit.files]
        sources[name] = {
            "rows": sum(found.rows for _, found in own) - lost[name][0],
            "malformed": sum(found.malformed for _, found in own) - lost[name][1],
            "erased": lost[name][0],
            "files": len(files),
            "format": sorted({file.described for file in files}),
            "shape": own[0][0].shape if own else None,
            "license": source.license,
            "weight": source.weight,
        }
    totals = {count: sum(one[count] for one in sources.values()) for count in ("rows", "malformed", "erased")}
    return {**totals, "sources": sources}
