"""Dataset version → the tuned model, if one is compared → approaches side by side → the winner as a version."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from forgeline.registry import start
from steps import approaches as steps
from steps import data as data_steps
from steps import training


@pipeline(name="approaches", execution_mode=ExecutionMode.FAIL_FAST)
def approaches(config: Config, names: list[str], register: bool) -> None:
    """Compare ways to use a model on the same prompts and budget; register the recommended one if asked to."""
    config = start.settled(config)
    project, train, evaluate = config.project, config.train, config.evaluate
    data = data_steps.prepare_data()
    tuned = None
    if any(config.approaches.candidates[name].model == "tuned" for name in names):
        tuned = training.tune(data=data, train=train, project=project, origin=start.identity(project, train))
    comparison = steps.compare(data=data, config=config, names=names, tuned=tuned)
    if register:
        base = training.evaluate_base(data=data, train=train, evaluate=evaluate, project=project)
        steps.register(data=data, config=config, comparison=comparison, base_report=base, tuned=tuned)
