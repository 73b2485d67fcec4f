"""Registered version → bundle → parity → its variants, made, judged and measured side by side."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from steps import deployment
from steps import optimise as steps


@pipeline(name="optimise", execution_mode=ExecutionMode.FAIL_FAST)
def optimise(version: int, config: Config) -> None:
    """Find out which form of a version is good enough, and what it costs."""
    bundle = deployment.build_bundle(version=version, config=config)
    parity = deployment.check_parity(version=version, bundle=bundle, config=config)
    steps.measure_variants(bundle=bundle, parity=parity, config=config)
