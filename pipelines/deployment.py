"""Registered version → bundle → parity → admission of the engine → target and smoke test → ledger."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from steps import deployment as steps


@pipeline(name="deployment", execution_mode=ExecutionMode.FAIL_FAST)
def deployment(version: int, target: str, config: Config) -> None:
    """Put a version in front of callers, or leave what is there as it is and say why."""
    bundle = steps.build_bundle(version=version, config=config)
    parity = steps.check_parity(version=version, bundle=bundle, config=config)
    expected = steps.admit_engine(bundle=bundle, parity=parity, config=config)
    deployed = steps.deploy(bundle=bundle, parity=parity, expected=expected, target=target, config=config)
    steps.record_deployment(bundle=bundle, deployment=deployed, target=target, config=config)
