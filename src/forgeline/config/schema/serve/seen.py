"""What is seen of the traffic: metrics, traces, logs, interactions."""

from __future__ import annotations

from typing import Literal

from forgeline.config.schema.section import Positive, Seconds, Section, Share


class Seen(Section):
    """What is kept of each request, where and for how long."""

    sample: Share = 1.0  # of the interactions keep their texts, masked; the rest of the row is always kept
    keep_days: Positive = 30
    when_behind: Literal["answer", "refuse"] = "answer"  # while the database takes no writes
    write_timeout: Seconds = 5.0
    pending: Positive = 10_000  # writes that may wait in memory for the database
    traces: str | None = None  # an OTLP/HTTP endpoint, such as MLflow's http://127.0.0.1:5000/v1/traces
    trace_headers: dict[str, str] = {}  # on each export, such as x-mlflow-experiment-id; values may be ${env:NAME}
    trace_texts: bool = False  # whether spans hold prompts and replies, masked
