"""MLflow runs: opened or taken up again by key, with live metrics, and compared on what they cost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
from pydantic import BaseModel

from forgeline.config.schema import Project
from forgeline.data.versions import DataVersion
from forgeline.errors import ForgelineError, RegistryError
from forgeline.evaluation.report import Report
from forgeline.registry import replies
from forgeline.registry.datasets import CONTEXTS, SplitDataset

SYSTEM_METRICS_SECONDS = 5
CURVE_SECONDS = 2.0  # between two writes of a curve: one takes several milliseconds, however many points it has
REASON = "forgeline.reason"  # why a run failed


def connect(project: Project) -> MlflowClient:
    """Point MLflow at the project's store and return a client; `MLFLOW_TRACKING_URI` has the last word."""
    # Threads that write traces to one SQLite file wait for each other, and lose some.
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    mlflow.set_tracking_uri(_address(project))
    mlflow.set_experiment(project.name)
    return MlflowClient()


def environment(project: Project) -> dict[str, str]:
    """Return the variables with which a process on another machine uses the project's store.

    Raises:
        RegistryError: if the store is a file of this machine.
    """
    address = _address(project)
    if not address.startswith(("http://", "https://")):
        raise RegistryError(
            f"Another machine cannot reach {address}: start `mlflow server` where it can, and set MLFLOW_TRACKING_URI, "
            "or stores.mlflow in configs/project.yaml, to its URL."
        )
    return {"MLFLOW_TRACKING_URI": address}


@contextmanager
def run(project: Project, name: str, key: str, tags: Mapping[str, str], parent: str | None = None) -> Iterator[Run]:
    """Open the MLflow run of a piece of work, the same one again if that work was interrupted.

    A run that an error ends has its sentence as a tag.

    Args:
        project: names the experiment and the store.
        name: what the UI shows.
        key: the digest of everything that determines the work.
        tags: written on the run, beside its key.
        parent: the id of the open run that this one is a part of.
    """
    client = connect(project)
    run_id = find(client, project, key)
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    with mlflow.start_run(
        run_id=run_id,
        run_name=None if run_id else name,
        nested=parent is not None,
        parent_run_id=parent,
        log_system_metrics=True,
    ) as active:
        mlflow.set_tags({**tags, "forgeline.key": key})
        if REASON in active.data.tags:
            mlflow.delete_tag(REASON)  # taken up again
        opened = Run(client, active.info.run_id, project)
        try:
            yield opened
        except ForgelineError as error:
            mlflow.set_tag(REASON, str(error))
            raise
        finally:
            opened.flush()


def find(client: MlflowClient, project: Project, key: str) -> str | None:
    """Return the id of the run with a key, or None."""
    experiment = client.get_experiment_by_name(project.name)
    found = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`forgeline.key` = '{key}'", max_results=1
    )
    return found[0].info.run_id if found else None


class Run:
    """One MLflow run to log to."""

    def __init__(self, client: MlflowClient, run_id: str, project: Project) -> None:
        self.client, self.run_id, self.project = client, run_id, project
        self._points: list[Metric] = []
        self._written = time.monotonic()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log nested settings under dotted names."""
        mlflow.log_params(dict(_flatten(values)))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, at a step if they form a curve; a curve is written every two seconds, and at the run's end."""
        now = int(time.time() * 1000)
        self._points += [Metric(name, value, now, step or 0) for name, value in values.items()]
        if step is None or time.monotonic() - self._written >= CURVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the points of curves that wait."""
        self.client.log_batch(self.run_id, metrics=self._points)
        self._points, self._written = [], time.monotonic()

    def tags(self, values: Mapping[str, str]) -> None:
        """Write words on the run."""
        mlflow.set_tags(dict(values))

    def reads(self, data: DataVersion, split: str) -> None:
        """Note a split of a dataset version as what the run reads."""
        dataset = SplitDataset(self.project.name, data, split)
        mlflow.log_input(dataset, context=CONTEXTS[split])

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or folder into the run's artifacts."""
        if path.is_dir():
            mlflow.log_artifacts(str(path), folder)
        else:
            mlflow.log_artifact(str(path), folder)

    def settings(self, values: Mapping[str, Any], name: str) -> None:
        """Store settings as a JSON artifact."""
        mlflow.log_dict(dict(values), name)

    def evaluation(self, report: Report, rows: int) -> None:
        """Log a report's values and intervals, and its first replies where the UI shows them."""
        for metric, estimate in report.metrics.items():
            self.metrics({metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high})
        replies.show(self.client, self.run_id, report, rows)


def costs(project: Project, run_id: str) -> dict[str, float]:
    """Return what a training run cost, by the names of its metrics; empty if that was not measured."""
    metrics = connect(project).get_run(run_id).data.metrics
    return {name: value for name, value in metrics.items() if name.startswith("cost_")}


class TrainingRun(BaseModel):
    """A training run for comparison; None where it has not come so far, or was made before this was measured."""

    name: str
    run_id: str
    started: str
    status: str
    validation_loss: float | None
    bleu: float | None
    tokens_per_second: float | None
    minutes: float | None
    kwh: float | None
    peak_memory_gb: float | None
    money: float | None
    currency: str | None
    machine: str | None


def training_runs(project: Project) -> list[TrainingRun]:
    """Return the training runs, oldest first, with what they reached and what they cost."""
    connect(project)
    found = mlflow.search_runs(
        experiment_names=[project.name],
        filter_string="tags.`forgeline.kind` = 'candidate'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    return [_training_run(each) for each in found]


def _training_run(run: mlflow.entities.Run) -> TrainingRun:
    metrics, tags = run.data.metrics, run.data.tags
    seconds = metrics.get("cost_seconds")
    return TrainingRun(
        name=run.info.run_name,
        run_id=run.info.run_id,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        status=run.info.status.lower(),
        tokens_per_second=metrics.get("train_tokens_per_second"),
        minutes=None if seconds is None else seconds / 60,
        **{name: metrics.get(name) for name in ("validation_loss", "bleu")},
        **{name: metrics.get(f"cost_{name}") for name in ("kwh", "peak_memory_gb", "money")},
        **{name: tags.get(f"forgeline.cost.{name}") for name in ("currency", "machine")},
    )


def _address(project: Project) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI", project.stores.mlflow)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
