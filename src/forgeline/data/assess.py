"""Stage 3: who is spoken of, in what company, and what each group is given; measured, and said in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from forgeline.config.schema import Data
from forgeline.data import charts, engine, table
from forgeline.data.bias.disparity import removed
from forgeline.data.bias.groups import COLUMNS
from forgeline.data.bias.report import bias_report
from forgeline.data.layout import KEPT, QUARANTINE, REPORTS
from forgeline.records import write_json


def assess(root: Path, config: Data) -> dict[str, Any]:
    """Write the bias report over the kept rows, and return it."""
    kept = table.parts(root / KEPT)

    def over(function: Callable[[pyarrow.Table], Any]) -> Iterator[Any]:
        return engine.run(partial(_of_part, function=function, columns=COLUMNS), kept, config, "assess")

    lost = partial(removed, config=config.assess, rules=frozenset(config.clean.rules))
    columns = [*COLUMNS, "rule", "duplicate_of"]
    removed_parts = sorted((root / QUARANTINE).rglob("*.parquet"))  # none, if no rule removed a row
    quarantined = engine.run(partial(_of_part, function=lost, columns=columns), removed_parts, config, "assess")
    report = bias_report(over, config.assess, quarantined)
    write_json(root / REPORTS / "bias.json", report)
    charts.bias(root / REPORTS, report)
    return report


def _of_part(path: Path, function: Callable[[pyarrow.Table], Any], columns: list[str]) -> Any:
    return function(table.read(path, columns=columns))
