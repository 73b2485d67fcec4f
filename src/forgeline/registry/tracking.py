"""MLflow runs: opened or taken up again by key, with live metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from forgeline.config.schema import Project
from forgeline.data.versions import DataVersion
from forgeline.errors import ForgelineError
from forgeline.evaluation.report import Report
from forgeline.registry.datasets import CONTEXTS, SplitDataset

SYSTEM_METRICS_SECONDS = 5
REASON = "forgeline.reason"  # why a run failed


def connect(project: Project) -> MlflowClient:
    """Point MLflow at the project's store and return a client; `MLFLOW_TRACKING_URI` has the last word."""
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", project.stores.mlflow))
    mlflow.set_experiment(project.name)
    return MlflowClient()


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
        try:
            yield Run(client, active.info.run_id, project)
        except ForgelineError as error:
            mlflow.set_tag(REASON, str(error))
            raise


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

    def params(self, values: Mapping[str, Any]) -> None:
        """Log nested settings under dotted names."""
        mlflow.log_params(dict(_flatten(values)))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, at a step if they form a curve."""
        mlflow.log_metrics(dict(values), step=step)

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
        """Log a report's values and intervals, and its first replies as a table the UI shows."""
        for metric, estimate in report.metrics.items():
            self.metrics({metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high})
        shown = report.rows[:rows]
        table = {
            "prompt": [row.prompt for row in shown],
            "reply": [row.reply for row in shown],
            "references": ["\n".join(row.references) for row in shown],
            "stopped": [row.stopped for row in shown],
        }
        mlflow.log_table(table, "evaluation/replies.json")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
