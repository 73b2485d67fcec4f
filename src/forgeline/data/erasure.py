"""Subjects whose rows no later dataset version holds: the tombstones, and how they apply."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow
from pyarrow import compute

from forgeline.data.layout import TOMBSTONES
from forgeline.errors import DataError
from forgeline.records import read_jsonl


def subject_digest(subject: str) -> str:
    """Return the sha256 under which a subject is erased: the list of the erased does not name them."""
    return hashlib.sha256(subject.encode()).hexdigest()


def tombstones(root: Path) -> frozenset[str]:
    """Return the digests of the erased subjects.

    Raises:
        DataError: for a line that is no tombstone: a list that cannot be read must not erase less.
    """
    path = root / TOMBSTONES
    if not path.exists():
        return frozenset()
    found = set()
    for number, row in enumerate(read_jsonl(path), start=1):
        subject = row.get("subject")
        if not isinstance(subject, str) or len(subject) != 64:
            raise DataError(f"{path}, line {number}: expected subject, a sha256 in 64 digits; found {subject!r}.")
        found.add(subject)
    return frozenset(found)


def forget(root: Path, subject: str, reason: str) -> bool:
    """Add a subject to the tombstones, whole or not at all; return False if it was there."""
    digest = subject_digest(subject)
    if digest in tombstones(root):
        return False
    path = root / TOMBSTONES
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"subject": digest, "when": datetime.now(UTC).isoformat(timespec="seconds"), "why": reason}
    lines = path.read_bytes().splitlines() if path.exists() else []
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(b"".join(line + b"\n" for line in [*lines, orjson.dumps(entry)]))
    os.replace(partial, path)
    return True


def is_erased(subjects: Any, erased: frozenset[str]) -> Any:
    """Return, for a column of subjects, which rows are of an erased one, as a boolean array."""
    known = [one for one in compute.unique(subjects).to_pylist() if one and subject_digest(one) in erased]
    return compute.is_in(subjects, value_set=pyarrow.array(known, pyarrow.string()))
