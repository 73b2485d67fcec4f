"""All that the card tells, as one plain value: the reports, and what only the rows themselves say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from forgeline.config.schema import Data
from forgeline.data.card.distributions import distributions
from forgeline.data.card.examples import examples
from forgeline.data.layout import CACHE, REPORTS, SPLITS
from forgeline.data.review import decisions
from forgeline.errors import DataError
from forgeline.lineage import code_digest, file_digest, value_digest
from forgeline.records import write_json


def gather(root: Path, config: Data) -> dict[str, Any]:
    """Return the facts of a project whose four stages have run; equal data give equal facts.

    Raises:
        DataError: if a stage's report is missing.
    """
    reports = {name: _report(root, name) for name in ("fetch", "clean", "bias", "split")}
    verdicts = decisions(root).values()
    return {
        **reports,
        "config": config.model_dump(mode="json", exclude={"engine", "workers"}),
        "config_digest": config.digest(),
        "splits": {name: file_digest(root / path) for name, path in SPLITS.items()},
        "people": {"people": len({one.who for one in verdicts}), **Counter(one.verdict for one in verdicts)},
        "removed": examples(root),
        "recognisers": _recognisers(root, config),
        **distributions(root, config, reports["clean"]["rows"]["kept"]),
    }


def _recognisers(root: Path, config: Data) -> dict[str, Any]:
    """Return what the recognisers find of planted personal data, measured once for each code and setting."""
    from forgeline.data import pii

    settings = config.clean.pii.model_dump(mode="json")
    path = root / CACHE / "recognisers" / f"{value_digest([code_digest('data/pii'), settings])[:16]}.json"
    if not path.exists():
        write_json(path, pii.measure(config.clean.pii))
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def _report(root: Path, name: str) -> dict[str, Any]:
    path = root / REPORTS / f"{name}.json"
    if not path.exists():
        raise DataError(f"{path} does not exist: run `forgeline data` to make it.")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
