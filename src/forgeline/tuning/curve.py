"""The curve that the training loop keeps in its run's folder: what it measured after each step."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "curve.jsonl"


def read(folder: Path) -> dict[int, dict[str, float]]:
    """Return a run's metrics by step, in order; what was logged of a step later, after a resumption, holds."""
    curve: dict[int, dict[str, float]] = {}
    path = folder / FILE
    if not path.exists():  # the run finished before curves were kept
        return curve
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            point = json.loads(line)
        except json.JSONDecodeError:  # a kill in the middle of a write tore it
            continue
        curve.setdefault(point.pop("step"), {}).update(point)
    return dict(sorted(curve.items()))
