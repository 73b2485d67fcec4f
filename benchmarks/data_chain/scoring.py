"""Recall and precision of a chain's outcome against the planted truth.

Of every group of copies one row should stay, whichever. Rows that a filter dropped leave their group:
they count against the filters. Recall is the copies removed of those planted; precision the rows rightly
removed of those that the exact (or near-duplicate) part removed, garbage aside. A filter is right to drop
what was planted as garbage. A piece of personal data is found if it is gone from the row's text; what else
was lost that has a digit or an @ is a false alarm.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.data_chain.corpus import read

NUMBER = re.compile(r"[0-9@](?:[\w.,:@/-]*\w)?", re.ASCII)
PARTS = {"exact": "exact", "normalised": "exact", "near": "near"}  # what part of a chain removes a kind of copy


class Outcome(NamedTuple):
    """What a chain made of a corpus: the texts it kept, and which part of it (filter, exact, near) dropped the rest."""

    kept: dict[str, str]
    dropped: dict[str, str]


Figures = dict[str, float]
Planted = dict[str, dict[str, Any]]


def score(corpus: Path, truth: Path, outcome: Outcome) -> Figures:
    """Return recall and precision by name, each between 0 and 1.

    Raises:
        ValueError: if a row is in no part of the outcome, or in two.
    """
    texts = {row["id"]: row["text"] for row in read(corpus)}
    planted = {row["id"]: row for row in read(truth)}
    if texts.keys() != outcome.kept.keys() | outcome.dropped.keys() or outcome.kept.keys() & outcome.dropped.keys():
        raise ValueError(
            f"{len(texts)} rows went in, {len(outcome.kept)} were kept and {len(outcome.dropped)} dropped."
        )
    kinds = {name: planted[name]["kind"] if name in planted else "plain" for name in texts}
    return {**_copies(planted, kinds, outcome), **_garbage(kinds, outcome), **_personal(texts, planted, kinds, outcome)}


def _copies(planted: Planted, kinds: dict[str, str], outcome: Outcome) -> Figures:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, row in planted.items():
        if row["kind"] in PARTS:
            groups.setdefault((row["kind"], row["source"]), [row["source"]]).append(name)
    expected: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for (kind, _), whole in groups.items():
        members = [name for name in whole if outcome.dropped.get(name) != "filter"]
        gone = [outcome.dropped[name] for name in members if name in outcome.dropped]
        expected[kind] += max(0, len(members) - 1)
        found[kind] += min(len(gone), max(0, len(members) - 1))
        right.update(sorted(gone)[: max(0, len(members) - 1)])
    removed = Counter(part for name, part in outcome.dropped.items() if kinds[name] != "garbage")
    recall = {f"{kind}_recall": found[kind] / expected[kind] for kind in PARTS}
    return recall | {f"{part}_precision": right[part] / max(1, removed[part]) for part in ("exact", "near")}


def _garbage(kinds: dict[str, str], outcome: Outcome) -> Figures:
    filtered = [kinds[name] for name, part in outcome.dropped.items() if part == "filter"]
    garbage = [name for name, kind in kinds.items() if kind == "garbage"]
    return {
        "garbage_recall": sum(name in outcome.dropped for name in garbage) / len(garbage),
        "garbage_precision": filtered.count("garbage") / max(1, len(filtered)),
    }


def _personal(texts: dict[str, str], planted: Planted, kinds: dict[str, str], outcome: Outcome) -> Figures:
    expected: Counter[str] = Counter()
    found: Counter[str] = Counter()
    alarms = 0
    for name, text in outcome.kept.items():
        if kinds[name] in {"garbage", "normalised"}:
            continue
        rest = texts[name]
        for kind, start, end in planted[name]["spans"] if name in planted else ():
            value, rest = rest[start:end], rest[:start] + rest[end:]
            expected[kind] += 1
            # A long run of digits that is still there gives a number away as well.
            runs = [value, *re.findall(r"\d{5,}", value)] if kind != "email" else [value]
            found[kind] += not any(run in text for run in runs)
        alarms += sum(token not in text for token in NUMBER.findall(rest))
    total = found.total()
    return {
        "pii_recall": total / expected.total(),
        "pii_precision": total / max(1, total + alarms),
        **{f"pii_{kind}_recall": found[kind] / expected[kind] for kind in sorted(expected)},
    }
