"""Registered version → bundle → parity → admission of the engine → beside what is live, under its traffic."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from steps import deployment as steps


@pipeline(name="rollout", execution_mode=ExecutionMode.FAIL_FAST)
def rollout(version: int, target: str, mode: str, share: float | None, reason: str, config: Config) -> None:
    """Try a version on some of the callers, or on copies of what they ask, while the live one goes on."""
    bundle = steps.build_bundle(version=version, config=config)
    parity = steps.check_parity(version=version, bundle=bundle, config=config)
    expected = steps.admit_engine(bundle=bundle, parity=parity, config=config)
    steps.start_rollout(
        bundle=bundle,
        parity=parity,
        expected=expected,
        target=target,
        mode=mode,
        share=share,
        reason=reason,
        config=config,
    )
