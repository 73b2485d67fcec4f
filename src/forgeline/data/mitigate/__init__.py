"""Mitigation of bias in the training split: augmentation, resampling, reweighing.

For the split stage::

    tables, report = mitigate(train_tables, config)

`train_tables` is a function that opens the training split anew each time it is called and yields Arrow
tables of `table.SCHEMA`; `tables` is another such function. Nothing is held but a few bytes a row, and
the split is read several times. Without mitigation in the configuration both are the same function and
the report is empty. Keys stay: a new row never straddles splits. Texts may change, so leaks are
looked for afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import polars
import pyarrow

from forgeline.config.schema import Data, Mitigate
from forgeline.data.bias.report import bias_report
from forgeline.data.mitigate.augment import augment
from forgeline.data.mitigate.contract import Tables
from forgeline.data.mitigate.resample import resample
from forgeline.data.mitigate.reweigh import dependence, joint, reweigh

__all__ = ["Tables", "mitigate"]

FIGURES = ("gates", "representation", "association", "counterfactual", "tone", "disparity", "labels", "preferences")


def mitigate(tables: Tables, config: Data) -> tuple[Tables, dict[str, Any]]:
    """Return the training split as `config.mitigate` wants it, and the report: before, after and the cost in rows.

    The report has the figures of the bias report `before` and `after`, by the rows' weights; `rows` before,
    augmented, copied, removed and after, and the `effective` number (Kish, 1965), in which copies and unequal
    weights count for less; of reweighing, the `dependence` of label on group; and `findings`.
    """
    settings = config.mitigate
    if settings == Mitigate():
        return tables, {}
    before = tables
    for category in settings.augment:
        tables = augment(tables, category, config.assess)
    if settings.resample:
        tables = resample(tables, settings.resample, config.assess)
    if settings.reweigh:
        tables = reweigh(tables, settings.reweigh, config.assess)
    report: dict[str, Any] = {"rows": _cost(before, tables)}
    for name, state in (("before", before), ("after", tables)):
        full = bias_report(partial(_over, state), config.assess)
        report[name] = {figure: full[figure] for figure in FIGURES}
        if settings.reweigh:
            report[name]["dependence"] = round(dependence(joint(state, settings.reweigh, config.assess)), 5)
    return tables, {**report, "findings": _sentences(report)}


def _over(tables: Tables, function: Callable[[pyarrow.Table], Any]) -> Iterator[Any]:
    return map(function, tables())


def _cost(before: Tables, after: Tables) -> dict[str, int | float]:
    rows, left, augmented = sum(len(part) for part in before()), 0, 0
    copied, weights, squares = 0.0, 0.0, 0.0
    for part in after():
        origins, weight = (polars.Series(polars.from_arrow(part[name])) for name in ("origin", "weight"))
        copies = origins.str.json_path_match("$.copies").cast(polars.Float64).fill_null(1.0)
        left += len(part)
        augmented += origins.str.json_path_match("$.augmented.of").is_not_null().sum()
        copied += float((1 - 1 / copies).sum())
        weights += float(weight.sum())
        squares += float((weight * weight * copies).sum())  # a row's copies weigh as one
    counts = {"before": rows, "augmented": augmented, "copied": round(copied)}
    removed = rows + augmented + round(copied) - left
    return {**counts, "removed": removed, "after": left, "effective": round(weights**2 / squares, 1)}


def _sentences(report: dict[str, Any]) -> list[str]:
    rows, before, after = report["rows"], report["before"], report["after"]
    said = [
        f"Mitigation made {rows['after']:,} training rows of {rows['before']:,}: {rows['augmented']:,} added about "
        f"another group, {rows['copied']:,} repeated, {rows['removed']:,} left out; they weigh as much as "
        f"{rows['effective']:,.0f} different rows of equal weight."
    ]
    figures = {name: (value, after["gates"].get(name)) for name, value in before["gates"].items()}
    if "dependence" in before:
        figures["dependence of label on group"] = before["dependence"], after["dependence"]
    said += [
        f"{name.replace('_', ' ').capitalize()}: {one:.3f} before, {other:.3f} after."
        for name, (one, other) in figures.items()
        if other is not None
    ]
    return said
