"""The training curve on disk: a line a step, which outlives the process that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "curve.jsonl"


class Curve:
    """The file `folder/curve.jsonl`, cut back to the step that training goes on from."""

    def __init__(self, folder: Path, step: int) -> None:
        kept = [row for row in read(folder) if row["step"] <= step]
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / NAME).open("w", encoding="utf-8")
        for row in kept:
            self._write(row)
        self._file.flush()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Append what was measured at a step."""
        self._write({"step": step, **metrics})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")


def read(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a folder's curve; a last line that a kill cut short is left out."""
    path = folder / NAME
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def by_step(folder: Path) -> dict[int, dict[str, float]]:
    """Return all that a folder's curve tells of each step, in order."""
    points: dict[int, dict[str, float]] = {}
    for row in read(folder):
        points.setdefault(int(row.pop("step")), {}).update(row)
    return points
