"""The fate of components: by the place of their keys, within strata, or by time; the frozen ones first."""

from __future__ import annotations

from typing import Any

import numpy
import polars
from numpy.typing import NDArray

from forgeline.config.schema import Split
from forgeline.data.kernels import Hashes
from forgeline.data.layout import NAMES
from forgeline.data.splits.keys import Rows, microseconds, require_times

TRAIN, VALIDATION, TEST = range(3)  # as in `layout.NAMES`
CONTAMINATED, LEFT_OUT = 3, 4  # of no split: too like a benchmark, or more than the mixture wants
Fates = NDArray[numpy.uint8]
Shares = NDArray[numpy.float64]


def deal(rows: Rows, component: Hashes, rule: Split, strata: dict[int, str]) -> tuple[Fates, dict[str, Any]]:
    """Return the split of each row and what the strategy has to report.

    Whatever the strategy, a component with a frozen key is test.

    - `hash`: a component's smallest place against the shares. Rows can only join components, and so lower
      a place: whatever is added, no key leaves test.
    - `stratified`: the components of a stratum in the order of their places, until test and validation have
      the share of its rows that is nearest to theirs. A component is of the stratum that most of its rows have.
    - `temporal`: a component that reaches a later split is dealt to it whole, for nothing that is known of a
      later split may be learned from; its earlier rows are counted as `straddling_rows`.

    Raises:
        DataError: if a row has no time in a temporal split.
    """
    names, inverse = numpy.unique(component, return_inverse=True)
    frozen = numpy.zeros(len(names), bool)
    frozen[inverse[rows["frozen"]]] = True
    report: dict[str, Any] = {"strategy": rule.strategy}
    if rule.strategy == "hash":
        fates = _by_share(names / 2**64, rule.test, rule)
    elif rule.strategy == "stratified":
        middle, settled = _standing(rows["stratum"], component, frozen, names)
        fates = _by_share(middle, numpy.maximum(rule.test, settled), rule)
    else:
        require_times(rows)
        starts = [microseconds(rule.validation_from), microseconds(rule.test_from)]
        own = numpy.searchsorted(starts, rows["time"], side="right").astype(numpy.uint8)
        fates = numpy.zeros(len(names), numpy.uint8)
        numpy.maximum.at(fates, inverse, own)
        report["straddling_rows"] = int((own < fates[inverse]).sum())
    fates[frozen] = TEST
    dealt = fates[inverse]
    if rule.strategy == "stratified":
        report["strata"] = {
            name: {split: int((dealt[rows["stratum"] == code] == fate).sum()) for fate, split in enumerate(NAMES)}
            for code, name in sorted(strata.items(), key=lambda item: item[1])
        }
    return dealt, report


def _by_share(places: Shares, test: Shares | float, rule: Split) -> Fates:
    fates = numpy.full(len(places), TRAIN, numpy.uint8)
    fates[places < test + rule.validation] = VALIDATION
    fates[places < test] = TEST
    return fates


def _standing(stratum: Hashes, component: Hashes, frozen: NDArray[numpy.bool], names: Hashes) -> tuple[Shares, Shares]:
    """Return where in its stratum the middle of each component lies, in [0, 1], and how much of that is frozen.

    The frozen components come first, then those with the smaller places.
    """
    counted = polars.DataFrame({"component": component, "stratum": stratum}).group_by("component", "stratum").len()
    first = counted.sort("component", polars.col("len").cast(polars.Int64) * -1, "stratum").unique(
        "component", keep="first", maintain_order=True
    )
    sizes = counted.group_by("component").agg(size=polars.col("len").sum()).sort("component")["size"]
    columns = {"component": names, "stratum": first["stratum"], "size": sizes, "frozen": frozen}
    size = polars.col("size")
    ranked = (
        polars.DataFrame(columns)
        .sort("stratum", ~polars.col("frozen"), "component")
        .select(
            "component",
            middle=(size.cum_sum().over("stratum") - size / 2) / size.sum().over("stratum"),
            settled=(size * polars.col("frozen")).sum().over("stratum") / size.sum().over("stratum"),
        )
        .sort("component")
    )
    return ranked["middle"].to_numpy(), ranked["settled"].to_numpy()
