"""A report's replies where the MLflow UI shows them: as a run's traces, and as a table beside those of other runs."""

from __future__ import annotations

import json
import math
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import AssessmentSource
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from forgeline.evaluation.examples import each_score
from forgeline.evaluation.metrics import create
from forgeline.evaluation.report import Report

TABLE = "evaluation/replies.json"
TRACED = 20  # replies: a trace takes two writes, of 20 ms each in SQLite
OURS = AssessmentSource(source_type="CODE", source_id="forgeline")
PEOPLE = AssessmentSource(source_type="HUMAN", source_id="test split")


def show(client: MlflowClient, run_id: str, report: Report, rows: int) -> None:
    """Log the first `rows` replies to the active run, in place of those that it had."""
    tables = {name: each_score(metric, report.statistics[name]) for name, metric in create(report.settings).items()}
    scores = [
        {name: round(float(values[place]), 4) for name, values in tables.items() if math.isfinite(values[place])}
        for place in range(min(rows, len(report.rows)))
    ]
    _traces(client, run_id, report, scores[:TRACED])
    _table(client, run_id, report, scores)


def _traces(client: MlflowClient, run_id: str, report: Report, scores: list[dict[str, float]]) -> None:
    """Log a trace for each reply, what people wrote as its expectation, and its own scores as feedback.

    All are attached while the trace is open, for later each would be a write of its own.
    """
    place = client.get_run(run_id).info.experiment_id
    if old := client.search_traces(locations=[place], run_id=run_id, max_results=500, include_spans=False):
        client.delete_traces(place, trace_ids=[trace.info.trace_id for trace in old])
    for row, score in zip(report.rows, scores, strict=False):
        with mlflow.start_span("reply", attributes={"row": row.id, "stopped": row.stopped, **row.groups}) as span:
            span.set_inputs({"prompt": row.prompt})
            span.set_outputs(row.reply)
            mlflow.log_expectation(trace_id=span.trace_id, name="references", value=row.references, source=PEOPLE)
            for name, value in score.items():
                mlflow.log_feedback(trace_id=span.trace_id, name=name, value=value, source=OURS)


def _table(client: MlflowClient, run_id: str, report: Report, scores: list[dict[str, float]]) -> None:
    """Write the table as `mlflow.log_table` does, which would append to one that is there."""
    columns = ["prompt", "reply", "references", "stopped", *report.settings]
    data: list[list[Any]] = [
        [row.prompt, row.reply, "\n".join(row.references), row.stopped, *(score.get(name) for name in report.settings)]
        for row, score in zip(report.rows, scores, strict=False)
    ]
    client.log_dict(run_id, {"columns": columns, "data": data}, TABLE)
    client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))
