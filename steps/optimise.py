"""The variants of a bundle: made, judged, measured, and written into the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step

from forgeline.config.schema import Config
from forgeline.registry import promotion
from forgeline.serving.optimise import Comparison, optimise
from forgeline.serving.parity import ParityReport


@step(enable_cache=False)
def measure_variants(bundle: str, parity: ParityReport, config: Config) -> Annotated[Comparison, "comparison"]:
    """Make what configs/optimise.yaml names, and measure it beside the bundle."""
    comparison = optimise(config, Path(bundle), [each.prompt for each in parity.comparisons])
    states = {one.name: {"state": one.state, "why": one.why, "digest": one.digest} for one in comparison.outcomes}
    facts = {"model": config.project.name, "version": comparison.version, "bundle": comparison.bundle}
    promotion.record_once(config, "optimised", facts | {"variants": states})
    return comparison
