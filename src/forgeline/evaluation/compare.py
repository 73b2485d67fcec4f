"""Compare two reports of the same test prompts."""

from __future__ import annotations

import numpy as np

from forgeline.config.schema import Evaluate
from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Estimate, paired_difference
from forgeline.evaluation.metrics import BY_TOKEN, METRICS
from forgeline.evaluation.report import Report


def difference(report: Report, other: Report, config: Evaluate, seed: int) -> dict[str, Estimate]:
    """Return report − other for each metric, with paired bootstrap intervals.

    Models that cut text into different tokens have no difference of perplexity: it is an average over tokens.

    Raises:
        EvaluationError: if the two were scored on different prompts.
    """
    if report.test_digest != other.test_digest:
        raise EvaluationError(
            f"{report.model} and {other.model} were scored on different test prompts: evaluate {other.model} again."
        )
    return {
        metric: paired_difference(
            np.array(report.statistics[metric]),
            np.array(other.statistics[metric]),
            METRICS[metric].value,
            config.bootstrap_samples,
            config.confidence,
            seed,
        )
        for metric in report.metrics
        if metric not in BY_TOKEN or report.vocabulary == other.vocabulary
    }
