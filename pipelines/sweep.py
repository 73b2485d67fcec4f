"""Dataset version → trials of training settings, the best first."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from steps import data as data_steps
from steps import sweep as steps


@pipeline(name="sweep", execution_mode=ExecutionMode.FAIL_FAST)
def sweep(config: Config) -> None:
    """Search for the training settings with the lowest validation loss."""
    data = data_steps.prepare_data()
    steps.search(data=data, train=config.train, sweep=config.sweep, project=config.project)
