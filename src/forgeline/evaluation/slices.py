"""The same scores, by parts of the test prompts: a group of the records, the length, the language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from forgeline.config.schema import Evaluate
from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Difference, Estimate, interval, paired_difference
from forgeline.evaluation.compare import shared_metrics
from forgeline.evaluation.metrics import CorpusMetric, create
from forgeline.evaluation.permutation import holm
from forgeline.evaluation.report import Report

LENGTHS = ("short", "middle", "long")
LETTERS = 20  # of fewer, nobody can tell the language
UNSURE = "unsure"

Mask = NDArray[np.bool_]


class Slices(BaseModel):
    """Each slice's estimates by metric, largest slice first, and the slices that have too few examples for any.

    All intervals of one metric hold together with the configured confidence (Bonferroni): each has a higher one.
    """

    by: str
    estimates: dict[str, dict[str, Estimate]]
    too_few: dict[str, int]


def slices(report: Report, by: str, config: Evaluate, seed: int, only: Collection[str] = ()) -> Slices:
    """Return a report's values by slice, of all its metrics or those in `only`.

    Args:
        report: what to cut up.
        by: a key of the records' groups, `length` or `language`.
        config: how sure, and how many examples a slice must have (`min_examples`).
        seed: of the bootstrap.
        only: names of metrics.

    Raises:
        EvaluationError: if no prompt has such a group.
    """

    def estimate(name: str, metric: CorpusMetric, mask: Mask, samples: int, confidence: float) -> Estimate:
        return interval(metric, np.array(report.statistics[name])[mask], samples, confidence, seed)

    return _estimate(report, by, create(report.settings), config, only, estimate)


def slice_differences(
    report: Report, other: Report, by: str, config: Evaluate, seed: int, only: Collection[str] = ()
) -> Slices:
    """Return report − other by slice, as `Difference`s whose p-values are adjusted among the slices (Holm).

    Args and what is raised are those of `slices` and `difference`.
    """

    def estimate(name: str, metric: CorpusMetric, mask: Mask, samples: int, confidence: float) -> Difference:
        mine, theirs = (np.array(each.statistics[name])[mask] for each in (report, other))
        return paired_difference(metric, mine, theirs, samples, confidence, seed, config.power)

    found = _estimate(report, by, shared_metrics(report, other), config, only, estimate)
    for name in {name for part in found.estimates.values() for name in part}:
        parts = [part for part in found.estimates.values() if name in part]
        differences = [each for part in parts if isinstance(each := part[name], Difference)]
        for part, each, p in zip(parts, differences, holm([each.p for each in differences]), strict=True):
            part[name] = each.model_copy(update={"p": p})
    return found


def _estimate(
    report: Report,
    by: str,
    metrics: dict[str, CorpusMetric],
    config: Evaluate,
    only: Collection[str],
    estimate: Callable[[str, CorpusMetric, Mask, int, float], Estimate],
) -> Slices:
    names = _names(report, by)
    counts = Counter(name for name in names if name)
    enough = [name for name, count in counts.most_common() if count >= config.min_examples]
    confidence = 1 - (1 - config.confidence) / max(1, len(enough))
    samples = config.bootstrap_samples * len(enough)  # the thinner tail holds as many draws
    chosen = {name: metric for name, metric in metrics.items() if not only or name in only}
    return Slices(
        by=by,
        estimates={
            part: {
                name: estimate(name, metric, np.array(names) == part, samples, confidence)
                for name, metric in chosen.items()
            }
            for part in enough
        },
        too_few={name: count for name, count in counts.most_common() if name not in enough},
    )


def _names(report: Report, by: str) -> list[str]:
    """Return the slice that each row is in; empty if in none."""
    match by:
        case "length":
            return _lengths(report)
        case "language":
            return _languages(report)
    if not any(by in row.groups for row in report.rows):
        known = sorted({group for row in report.rows for group in row.groups})
        raise EvaluationError(f"No test prompt has a group {by!r}; legal: {', '.join([*known, 'length', 'language'])}.")
    return [row.groups.get(by, "") for row in report.rows]


def _lengths(report: Report) -> list[str]:
    """Return in which third, by the mean number of words that people answered, each prompt is."""
    words = [sum(len(reference.split()) for reference in row.references) / len(row.references) for row in report.rows]
    thirds = np.digitize(words, np.quantile(words, [1 / 3, 2 / 3]))
    return [LENGTHS[third] for third in thirds]


def _languages(report: Report) -> list[str]:
    """Return the language that people answered each prompt in."""
    from forgeline.data.rules.language import likeliest_language

    answers = [" ".join(row.references) for row in report.rows]
    return [likeliest_language(answer) if sum(map(str.isalpha, answer)) >= LETTERS else UNSURE for answer in answers]
