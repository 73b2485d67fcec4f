"""The frozen test set: digests of keys that are test keys for good, in a file that git tracks."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy

from forgeline.data.kernels import Hashes
from forgeline.data.layout import FROZEN, SPLITS
from forgeline.errors import DataError
from forgeline.records import read_jsonl

DIGEST = re.compile(r"[0-9a-f]{64}")


def read_frozen(root: Path) -> set[str]:
    """Return the frozen digests; raise DataError naming the line that is none."""
    path = root / FROZEN
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if line and not DIGEST.fullmatch(line):
            raise DataError(f"{FROZEN}, line {number} is not the sha256 of a key: restore the file from git.")
    return {line for line in lines if line}


def beginnings(digests: set[str]) -> Hashes:
    """Return the first 8 bytes of digests, sorted: enough to know them by."""
    return numpy.array(sorted(int(digest[:16], 16) for digest in digests), numpy.uint64)


def freeze(root: Path) -> tuple[int, int]:
    """Add the keys of the test split to the frozen ones; return how many there are, and how many are new.

    Raises:
        DataError: if there is no test split.
    """
    before = read_frozen(root)
    now = {
        hashlib.sha256(key.encode()).hexdigest()
        for row in read_jsonl(root / SPLITS["test"])
        for key in [row["key"], *row["origin"].get("keys", [])]
    }
    path = root / FROZEN
    if added := now - before:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        partial.write_text("".join(f"{digest}\n" for digest in sorted(before | now)), encoding="utf-8")
        os.replace(partial, path)
    return len(before | now), len(added)
