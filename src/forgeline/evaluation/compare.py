"""Compare two reports of the same test prompts."""

from __future__ import annotations

import numpy as np

from forgeline.config.schema import Evaluate
from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Difference, paired_difference
from forgeline.evaluation.metrics import CorpusMetric, create
from forgeline.evaluation.report import Report


def difference(report: Report, other: Report, config: Evaluate, seed: int) -> dict[str, Difference]:
    """Return report − other for each metric that both have, with paired intervals and p-values.

    Raises:
        EvaluationError: if the two were scored on different prompts, or a metric with different options.
    """
    return {
        name: paired_difference(
            metric,
            np.array(report.statistics[name]),
            np.array(other.statistics[name]),
            config.bootstrap_samples,
            config.confidence,
            seed,
            config.power,
        )
        for name, metric in shared_metrics(report, other).items()
    }


def shared_metrics(report: Report, other: Report) -> dict[str, CorpusMetric]:
    """Return the metrics that both reports have and that mean the same in both.

    Models that cut text into different tokens have no difference of perplexity: it is an average over tokens.

    Raises:
        EvaluationError: if the two were scored on different prompts, or a metric with different options.
    """
    if report.test_digest != other.test_digest:
        raise EvaluationError(
            f"{report.model} and {other.model} were scored on different test prompts: evaluate {other.model} again."
        )
    shared = [name for name in report.settings if name in other.settings]
    if unlike := [name for name in shared if report.settings[name] != other.settings[name]]:
        raise EvaluationError(
            f"{report.model} and {other.model} were scored with other settings of {', '.join(unlike)}: "
            f"evaluate {other.model} again."
        )
    metrics = create({name: report.settings[name] for name in shared})
    same_tokens = report.vocabulary == other.vocabulary
    return {name: metric for name, metric in metrics.items() if same_tokens or not metric.by_token}
