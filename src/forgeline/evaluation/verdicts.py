"""What people said of a sheet: read, checked against it, and counted."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from forgeline.errors import EvaluationError
from forgeline.evaluation.agreement import agreement
from forgeline.evaluation.bootstrap import Estimate, percentiles, resamples
from forgeline.evaluation.sheets import BAD, KEY, TIE, Key

COLUMNS = ("sheet", "row", "verdict")
DELIMITERS = ",;\t"  # which one a spreadsheet writes depends on the country


class Verdict(NamedTuple):
    """One person's choice on one row: the places of the models that gave the best reply.

    All of them for a tie, none where all are bad.
    """

    row: str
    rater: str
    best: frozenset[int]


class Judged(NamedTuple):
    """What all verdicts come to: verdicts by rater, agreement, and the win rate of the first model against each other.

    `agreement` is None where no two people judged the same row, or all verdicts are the same.
    """

    raters: dict[str, int]
    agreement: Estimate | None
    wins: dict[str, Estimate]


def read(key: Key, paths: Sequence[Path]) -> list[Verdict]:
    """Return the verdicts in files that came back; rows that nobody judged are passed over.

    A file's `rater` column says who judged; where it has none, the file's name does.

    Raises:
        EvaluationError: naming file and line of what does not belong to the sheet, or was judged twice.
    """
    seen: dict[tuple[str, str], str] = {}
    found = []
    for path in paths:
        for place, verdict in _read(key, path):
            before = seen.setdefault((verdict.rater, verdict.row), place)
            if before != place:
                raise EvaluationError(
                    f"{place}: {verdict.rater} has judged row {verdict.row} already ({before}): leave one of the two."
                )
            found.append(verdict)
    if not found:
        raise EvaluationError(f"{', '.join(map(str, paths))}: no verdict in it: fill in 1, 2, …, {TIE} or {BAD}.")
    return found


def count(key: Key, verdicts: Sequence[Verdict], samples: int, confidence: float, seed: int) -> Judged:
    """Return agreement and win rates with intervals, resampling prompts: verdicts on one prompt are no two samples."""
    raters: dict[str, int] = defaultdict(int)
    units: dict[str, list[frozenset[int]]] = defaultdict(list)
    for verdict in verdicts:
        raters[verdict.rater] += 1
        units[verdict.row].append(verdict.best)
    wins = {}
    for other in range(1, len(key.models)):
        scores = [_score(best, other) for best in units.values()]
        # Prompts that all models answered in the same words are ties that nobody had to see.
        known = np.array([score for score in scores if score is not None] + [0.5] * key.alike)
        if len(known):
            drawn = resamples(len(known), samples, seed) @ known / len(known)
            wins[key.models[other].name] = percentiles(float(known.mean()), drawn, len(known), confidence)
    return Judged(dict(raters), agreement(units, samples, confidence, seed), wins)


def _score(views: Sequence[frozenset[int]], other: int) -> float | None:
    """Return the share of a prompt that the first model wins from another; None where both lost to a third."""
    scores = []
    for best in views:
        if (0 in best) != (other in best):
            scores.append(float(0 in best))
        elif 0 in best or not best:
            scores.append(0.5)
    return sum(scores) / len(scores) if scores else None


def _read(key: Key, path: Path) -> Iterator[tuple[str, Verdict]]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            heading = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(DELIMITERS, key=heading.count))
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise EvaluationError(
                    f"{path}, line 1: no column {', '.join(sorted(missing))}: give back the sheet's own table, or "
                    "what its page downloads."
                )
            for row in reader:
                if (row["verdict"] or "").strip():
                    place = f"{path}, line {reader.line_num}"
                    yield place, _verdict(key, place, row, (row.get("rater") or "").strip() or path.stem)
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise EvaluationError(f"{path} cannot be read: {fault}.") from fault


def _verdict(key: Key, place: str, row: Mapping[str, str | None], rater: str) -> Verdict:
    """Return what a row of a table says, with models in the place of left and right."""
    sheet, number, said = ((row[column] or "").strip() for column in COLUMNS)
    if sheet != key.digest:
        raise EvaluationError(
            f"{place}: this is a verdict on the sheet {sheet or 'without a name'}, with other prompts or replies than "
            f"{key.digest}: import it into the folder whose {KEY} has its digest."
        )
    line = key.lines.get(number)
    if line is None:
        raise EvaluationError(f"{place}: the sheet has no row {number!r}; it has 1 to {len(key.lines)}.")
    said = said.lower()
    if said in (TIE, BAD):
        return Verdict(number, rater, frozenset(range(len(key.models))) if said == TIE else frozenset())
    if not said.isdecimal() or not 1 <= int(said) <= len(line.models):
        raise EvaluationError(
            f"{place}: no verdict {said!r}; legal: 1 to {len(line.models)} for the best reply, {TIE}, {BAD}."
        )
    return Verdict(number, rater, frozenset(line.models[int(said) - 1]))
