"""What can be looked up: how people answered in the training split, and facts from files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgeline.config.schema import Config, Knowledge
from forgeline.errors import DataError
from forgeline.lineage import code_digest, value_digest
from forgeline.models.embed import ENCODER
from forgeline.prompting.approach import Approach
from forgeline.prompting.store import Example, Store
from forgeline.records import read_jsonl, read_records
from forgeline.sample import sample
from forgeline.sources import resolve

UNKNOWN = ("", "?")  # how tables write that they do not know


def store(config: Config, approach: Approach, train: Path, unseen: Sequence[Path], folder: Path) -> Store | None:
    """Return the store that an approach looks things up in, built into `folder` unless it is there; None without one.

    It holds nothing that the approach does not use: no training example where it shows none.
    """
    if not approach.looks_up:
        return None
    shown = examples(train, unseen, config.project.seed) if approach.examples else []
    known = facts(config) if approach.facts else []
    embedded = approach.retriever != "bm25"
    path = folder / f"{value_digest([shown, known, embedded and ENCODER, code_digest('prompting')])[:16]}.db"
    return Store(path if path.exists() else Store.build(path, shown, known, embedded=embedded))


def examples(train: Path, unseen: Sequence[Path], seed: int) -> list[Example]:
    """Return one example a prompt of the training split: its most typical answer.

    What people disliked, and what does not answer a user, is no example. `unseen` are the splits that models are
    judged on.

    Raises:
        DataError: if a training record has the key of one of theirs.
    """
    kept = [record for record in read_records(train) if record.label is not False and _question(record.prompt)]
    first = {record.key: record for record in reversed(sample(kept, None, seed))}
    for path in unseen:
        if shared := first.keys() & {record.key for record in read_records(path)}:
            raise DataError(
                f"{train} and {path} share the key {min(shared)}, so an example would give an answer away: "
                "run `forgeline data` again."
            )
    ordered = sorted(first.values(), key=lambda record: record.id)
    return [Example(record.id, record.key, _question(record.prompt), record.completion) for record in ordered]


def facts(config: Config) -> list[str]:
    """Return the facts in all files that `approaches.knowledge` names, each once, masked as the data are.

    Raises:
        SourceError: if a file cannot be found.
        DataError: if it is no table of a known kind, or has none of the fields that are named.
    """
    import polars

    from forgeline.data.pii import Masker

    told = [
        fact
        for name, source in config.approaches.knowledge.items()
        for path in resolve(source.uri, config.root)
        for fact in _facts(name, source, path)
    ]
    masked, _ = Masker(config.data.clean.pii, config.root).mask(polars.Series(told, dtype=polars.String))
    return list(dict.fromkeys(masked))


def _question(prompt: list[dict[str, str]]) -> str:
    return prompt[-1]["content"] if prompt and prompt[-1]["role"] == "user" else ""


def _facts(name: str, source: Knowledge, path: Path) -> list[str]:
    rows = _rows(path)
    told = []
    for row in rows:
        known = {field: str(row[field]) for field in source.fields if isinstance(row.get(field), str | int | float)}
        pairs = [(source.fields[field], value) for field, value in known.items() if value not in UNKNOWN]
        if pairs:
            told.append("; ".join([name, *(f"{label}: {value}" if label else value for label, value in pairs)]))
    if not told:
        there = ", ".join(sorted({key for row in rows for key in row})) or "no rows"
        raise DataError(
            f"approaches.knowledge.{name}: {path.name} has none of the fields {', '.join(source.fields)}; "
            f"it has {there}."
        )
    return told


def _rows(path: Path) -> list[dict[str, Any]]:
    match path.suffix:
        case ".jsonl":
            return list(read_jsonl(path))
        case ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        case ".json":
            rows = _parsed(path)
            if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
                return rows
    raise DataError(f"{path} is no table of facts: expected .jsonl or .csv, or .json with a list of objects.")


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
