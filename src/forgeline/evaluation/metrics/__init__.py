"""Metrics as `evaluate.Metric` subclasses, by the names that configs/evaluate.yaml gives them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.corpus import COLUMNS, CorpusMetric, Mean, Table
from forgeline.evaluation.metrics.likelihood import Perplexity
from forgeline.evaluation.metrics.replies import StopRate
from forgeline.evaluation.metrics.text import Bleu, Chrf

__all__ = ["COLUMNS", "METRICS", "Bleu", "Chrf", "CorpusMetric", "Mean", "Perplexity", "StopRate", "Table", "create"]

METRICS: dict[str, type[CorpusMetric]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "perplexity": Perplexity,
    "stop_rate": StopRate,
}


def create(chosen: Mapping[str, Mapping[str, Any] | None]) -> dict[str, CorpusMetric]:
    """Return the metrics that `evaluate.metrics` names, in its order.

    `chosen` maps a name to its options. A name that is not among METRICS brings its class, as
    `class: package.module:Name`.

    Raises:
        EvaluationError: if a class cannot be found, is no metric, or refuses its options.
    """
    return {name: _create(name, dict(options or {})) for name, options in chosen.items()}


def _create(name: str, options: dict[str, Any]) -> CorpusMetric:
    where = f"configs/evaluate.yaml: metrics.{name}"
    path = options.pop("class", None)
    if path is None and name not in METRICS:
        raise EvaluationError(f"{where}: no such metric; legal: {', '.join(METRICS)}, or class: package.module:Name.")
    kind = METRICS[name] if path is None else _imported(path, where)
    try:
        metric = kind(**options)
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
