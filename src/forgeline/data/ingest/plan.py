"""What is parsed together, and under which name: the units that a fetch parses, or finds parsed before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from forgeline.config.schema import Data, Source
from forgeline.data import engine
from forgeline.data.ingest.formats import File
from forgeline.data.ingest.parts import SPAN, Job, Parsed, Reading, Survey, filled_parts, parse, survey, write_parts
from forgeline.data.ingest.sources import examined, located, shape_of_source
from forgeline.data.multiwoz import adapt_templates
from forgeline.lineage import value_digest

Item = TypeVar("Item")
BUNDLE = 16 << 20  # bytes of work that one process does at a time: little data needs no pool of them
BOUNDARIES = {"00", "40", "80", "c0"}  # one digest in 64 begins so


@dataclass(frozen=True)
class Templates:
    """The one job of a source of templates."""

    source: str
    files: tuple[File, ...]
    system: str | None
    max_references: int
    seed: int
    stem: Path


@dataclass(frozen=True)
class Unit:
    """Files that share parts, and the digest that these are named by."""

    source: str
    digest: str
    files: tuple[File, ...]
    shape: str
    jobs: tuple[Job | Templates, ...]
    size: int


def plan(root: Path, config: Data, cache: Path, spool: Path) -> list[Unit]:
    """Return the units of every source, whose parts lie at `<cache>/<source>/<digest>-<number>.parquet`.

    Raises:
        SourceError: if a source cannot be resolved.
        DataError: if a file lies where DVC would not see it change, is damaged, or holds nothing known.
    """
    sources = config.fetch.sources
    files = {name: _files(source, root, spool / name) for name, source in sources.items()}
    every = [file for found in files.values() for file in found]
    tasks = bundled(every, lambda file: file.path.stat().st_size)
    surveyed = (one for done in engine.run(_survey, tasks, config, "survey") for one in done)
    surveys = dict(zip(every, surveyed, strict=True))
    units: list[Unit] = []
    for name, source in sources.items():
        with_surveys = [(file, surveys[file]) for file in files[name]]
        if source.adapter == "multiwoz_templates":
            units.append(_template_unit(name, with_surveys, config, cache / name))
        else:
            reading = Reading(name, shape_of_source(source, files[name]), source.columns, config.fetch.system)
            units += [_unit(reading, group, cache / name) for group in _grouped(with_surveys)]
    return units


def run(job: Job | Templates) -> Parsed:
    """Write the parts of a job; raise DataError if a file is damaged or not what it should be."""
    if isinstance(job, Job):
        return parse(job)
    files = [(file.name, file.path) for file in job.files]
    rows = adapt_templates(files, job.system, job.max_references, job.seed)
    return write_parts(filled_parts({**row, "source": job.source} for row in rows), job.stem)


def bundled(items: Iterable[Item], size: Callable[[Item], int]) -> list[list[Item]]:
    """Return items in lists of about `BUNDLE` bytes, in their order."""
    bundles: list[list[Item]] = []
    room = 0
    for item in items:
        if room <= 0:
            bundles.append([])
            room = BUNDLE
        bundles[-1].append(item)
        room -= size(item)
    return bundles


def _files(source: Source, root: Path, spool: Path) -> list[File]:
    found = located(source, root, spool)
    if source.adapter == "multiwoz_templates":
        return [File(name, path, "json", None) for name, path in found]
    return examined(source, found)


def _survey(files: Sequence[File]) -> list[Survey]:
    return [survey(file) for file in files]


def _grouped(files: Sequence[tuple[File, Survey]]) -> Iterator[list[tuple[File, Survey]]]:
    """Yield the files that share parts: each by itself, but texts, which are one row each, together.

    Where a group of texts ends is told by the texts, so that a new one changes no group but its own.
    """
    group: list[tuple[File, Survey]] = []
    for file, seen in files:
        if file.format != "text":
            yield [(file, seen)]
            continue
        group.append((file, seen))
        if seen.digest[:2] in BOUNDARIES or sum(one.size for _, one in group) > SPAN:
            yield group
            group = []
    if group:
        yield group


def _unit(reading: Reading, group: list[tuple[File, Survey]], folder: Path) -> Unit:
    files = tuple(file for file, _ in group)
    identity = [[file.name, file.format, seen.digest] for file, seen in group]
    how = [reading.source, reading.shape, reading.columns, reading.system]
    digest = value_digest({"files": identity, "how": how})[:16]
    stem = folder / digest
    jobs: tuple[Job, ...] = (Job(reading, files, stem),)
    seen = group[0][1]
    if len(seen.cuts) > 1:
        spans = pairwise([*seen.cuts, (seen.size, 0)])
        jobs = tuple(
            Job(reading, files, stem, number, (start, end), line)
            for number, ((start, line), (end, _)) in enumerate(spans)
        )
    return Unit(reading.source, digest, files, reading.shape, jobs, sum(one.size for _, one in group))


def _template_unit(name: str, group: list[tuple[File, Survey]], config: Data, folder: Path) -> Unit:
    files = tuple(file for file, _ in group)
    how = [name, config.fetch.system, config.clean.max_references, config.fetch.seed]
    digest = value_digest({"files": [[file.name, seen.digest] for file, seen in group], "how": how})[:16]
    job = Templates(name, files, config.fetch.system, config.clean.max_references, config.fetch.seed, folder / digest)
    return Unit(name, digest, files, "templates", (job,), sum(seen.size for _, seen in group))
