"""Metrics as `evaluate.Metric` subclasses, by the names that configs/evaluate.yaml gives them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import COLUMNS, CorpusMetric, Mean, Table, with_ones
from forgeline.evaluation.metrics.diversity import Distinct1, Distinct2, Distinct3
from forgeline.evaluation.metrics.judge import Judge
from forgeline.evaluation.metrics.likelihood import Perplexity
from forgeline.evaluation.metrics.replies import (
    Latency,
    LatencyP50,
    LatencyP95,
    LatencyP99,
    Length,
    StopRate,
    Throughput,
)
from forgeline.evaluation.metrics.rouge import Rouge1, Rouge2, RougeL
from forgeline.evaluation.metrics.similarity import Similarity
from forgeline.evaluation.metrics.slots import SlotErrorRate
from forgeline.evaluation.metrics.text import Bleu, Chrf, ExactMatch, Ter

__all__ = [
    "COLUMNS",
    "METRICS",
    "Bleu",
    "Chrf",
    "CorpusMetric",
    "Distinct1",
    "Distinct2",
    "Distinct3",
    "ExactMatch",
    "Judge",
    "Latency",
    "LatencyP50",
    "LatencyP95",
    "LatencyP99",
    "Length",
    "Mean",
    "Perplexity",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "Similarity",
    "SlotErrorRate",
    "StopRate",
    "Table",
    "Ter",
    "Throughput",
    "create",
    "with_ones",
]

METRICS: dict[str, type[CorpusMetric]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "ter": Ter,
    "rouge_1": Rouge1,
    "rouge_2": Rouge2,
    "rouge_l": RougeL,
    "exact_match": ExactMatch,
    "slot_error_rate": SlotErrorRate,
    "similarity": Similarity,
    "judge": Judge,
    "distinct_1": Distinct1,
    "distinct_2": Distinct2,
    "distinct_3": Distinct3,
    "perplexity": Perplexity,
    "stop_rate": StopRate,
    "length": Length,
    "latency": Latency,
    "latency_p50": LatencyP50,
    "latency_p95": LatencyP95,
    "latency_p99": LatencyP99,
    "throughput": Throughput,
}


def create(chosen: Mapping[str, Mapping[str, Any] | None]) -> dict[str, CorpusMetric]:
    """Return the metrics that `evaluate.metrics` names, in its order.

    `chosen` maps a name to its options. A name that is not among METRICS brings its class, as
    `class: package.module:Name`.

    Raises:
        EvaluationError: with every class that cannot be found, is no metric, or refuses its options.
    """
    created, faults = {}, []
    for name, options in chosen.items():
        try:
            created[name] = _create(name, dict(options or {}))
        except EvaluationError as error:
            faults.append(str(error))
    if faults:
        raise EvaluationError("\n".join(faults))
    return created


def _create(name: str, options: dict[str, Any]) -> CorpusMetric:
    where = f"configs/evaluate.yaml: metrics.{name}"
    path = options.pop("class", None)
    if path is None and name not in METRICS:
        raise EvaluationError(f"{where}: no such metric; legal: {', '.join(METRICS)}, or class: package.module:Name.")
    kind = METRICS[name] if path is None else _imported(path, where)
    try:
        metric = kind(**options)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors())
        raise EvaluationError(f"{where}: {'; '.join(faults)}.") from error
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: {kind.__name__} does not take {options}: {error}.") from error
    if unknown := set(kind.columns) - COLUMNS.keys():
        raise EvaluationError(f"{where}: {kind.__name__} wants {', '.join(unknown)}; there are {', '.join(COLUMNS)}.")
    return metric


def _imported(path: str, where: str) -> type[CorpusMetric]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EvaluationError(f"{where}: {path} cannot be found ({error}); expected package.module:Name.") from error
    if not (isinstance(found, type) and issubclass(found, CorpusMetric)):
        raise EvaluationError(f"{where}: {path} is no CorpusMetric (forgeline.evaluation.metrics).")
    return found
