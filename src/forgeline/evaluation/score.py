"""Evaluate one subject on the frozen test prompts."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from forgeline.config.schema import Evaluate
from forgeline.errors import EvaluationError, ForgelineError
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import Bleu, CorpusMetric, create
from forgeline.evaluation.report import Report, Row
from forgeline.evaluation.subjects import Subject
from forgeline.lineage import value_digest
from forgeline.models import Reply
from forgeline.progress import progress_bar
from forgeline.records import Record, read_records


def test_records(path: Path, limit: int | None, seed: int) -> list[Record]:
    """Return the seeded sample of the test split that every model is scored on.

    Raises:
        EvaluationError: if the split is empty.
    """
    records = read_records(path)
    if not records:
        raise EvaluationError(f"{path} holds no test prompts: raise split.test in configs/data.yaml or add data.")
    if limit is not None and limit < len(records):
        records = random.Random(seed).sample(records, limit)
    return records


def evaluate(subject: Subject, test: Path, config: Evaluate, seed: int) -> Report:
    """Return a subject's report: its greedy replies, scored by the metrics that `config` names.

    Args:
        subject: what to score.
        test: the test split; each record's references are its accepted replies.
        config: how many prompts, how long a reply, which metrics, how sure.
        seed: of the sample and the bootstrap.
    """
    records = test_records(test, config.max_prompts, seed)
    metrics = create(config.metrics)
    started = time.perf_counter()
    with progress_bar(f"evaluate {subject.name}", len(records), unit="replies") as progress:
        replies = subject.replies(
            [record.prompt for record in records],
            config.max_new_tokens,
            advance=lambda count: progress.advance(count, amount=count),
        )
    generated = time.perf_counter()
    columns = _columns(subject, records, replies)
    statistics, not_measured = _measure(metrics, columns, subject.name)
    samples, confidence = config.bootstrap_samples, config.confidence
    return Report(
        model=subject.name,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        test_digest=value_digest([record.model_dump() for record in records]),
        vocabulary=subject.vocabulary,
        signature=Bleu.signature(),
        settings={name: dict(config.metrics[name] or {}) for name in statistics},
        metrics={
            name: interval(metrics[name], np.array(table), samples, confidence, seed)
            for name, table in statistics.items()
        },
        not_measured=not_measured,
        seconds={"generate": round(generated - started, 3), "score": round(time.perf_counter() - generated, 3)},
        rows=[
            Row(
                id=record.id,
                prompt=_asked(record),
                references=accepted,
                reply=reply.text,
                tokens=reply.tokens,
                stopped=reply.stopped,
                groups=record.groups,
            )
            for record, accepted, reply in zip(records, columns["references"], replies, strict=True)
        ],
        statistics=statistics,
    )


def _measure(
    metrics: Mapping[str, CorpusMetric], columns: Mapping[str, list[Any]], asked: str
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Return each metric's statistics, and of those that have no honest number, why."""
    statistics, why_not = {}, {}
    for name, metric in metrics.items():
        if lacks := set(metric.columns) - columns.keys():
            why_not[name] = f"{asked} does not tell {', '.join(sorted(lacks))}"
            continue
        try:
            found = metric.compute(**{column: columns[column] for column in metric.columns})
            statistics[name] = found["statistics"]
        except ForgelineError as error:
            why_not[name] = str(error)
    return statistics, why_not


def _columns(subject: Subject, records: Sequence[Record], replies: Sequence[Reply]) -> dict[str, list[Any]]:
    """Return what is known of each prompt, under the names of `metrics.COLUMNS`."""
    columns: dict[str, list[Any]] = {
        "predictions": [reply.text for reply in replies],
        "references": [_accepted(record) for record in records],
        "prompts": [_asked(record) for record in records],
        "stopped": [reply.stopped for reply in replies],
        "tokens": [reply.tokens for reply in replies],
        "waited": [reply.waited for reply in replies],
        "seconds": [reply.seconds for reply in replies],
    }
    losses = subject.losses(records)
    if losses is not None:
        columns["nats"], columns["scored_tokens"] = (list(column) for column in zip(*losses, strict=True))
    return columns


def _accepted(record: Record) -> list[str]:
    """Return what people accept as a reply: none is known where they disliked the only one."""
    return record.references or ([] if record.label is False else [record.completion])


def _asked(record: Record) -> str:
    """Return the last turn before the reply; a record of plain text has none."""
    return record.messages[-2].content if len(record.messages) > 1 else ""
