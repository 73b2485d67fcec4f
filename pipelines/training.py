"""Dataset version → base score → tune → candidate score → probes → register → gates → promote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zenml import pipeline
from zenml.enums import ExecutionMode

from forgeline.config import Config
from forgeline.registry import start
from steps import data as data_steps
from steps import training as steps


@pipeline(name="training", execution_mode=ExecutionMode.FAIL_FAST)
def training(config: Config) -> None:
    """Take the data to a champion, or to the reasons why not."""
    config = start.settled(config)
    version = _register_candidate(config, start.identity(config.project, config.train))
    decision = steps.gate(version=version, config=config)
    steps.promote(version=version, decision=decision, config=config)


@pipeline(name="candidate", dynamic=True, execution_mode=ExecutionMode.FAIL_FAST)
def candidate(config: Config, origin: str | None) -> None:
    """Take the data to a registered version on a cluster: all steps in one container, for they hand on files.

    What `train.start` names is settled before, for the registry is known to the steps alone. The gates are
    judged after, where the command was given, which is where the ledger lies.
    """
    _register_candidate(config.model_copy(update={"root": Path.cwd()}), origin)


def _register_candidate(config: Config, origin: str | None) -> Any:
    project, train, evaluate = config.project, config.train, config.evaluate
    data = data_steps.prepare_data()
    base = steps.evaluate_base(data=data, train=train, evaluate=evaluate, project=project)
    tuned = steps.tune(data=data, train=train, project=project, origin=origin)
    report = steps.evaluate_candidate(data=data, tuned=tuned, train=train, evaluate=evaluate, project=project)
    probes = steps.probe_candidate(
        data=data,
        tuned=tuned,
        candidate_report=report,
        train=train,
        evaluate=evaluate,
        chosen=config.probes,
        pii=config.data.clean.pii,
        project=project,
    )
    return steps.register(
        data=data, tuned=tuned, base_report=base, candidate_report=report, candidate_probes=probes, config=config
    )
