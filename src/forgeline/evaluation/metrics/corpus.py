"""What every metric is: per-example statistics, and a corpus value that follows from their sums.

Whoever keeps the (examples × k) table of statistics can resample it, so intervals, slices and paired
comparisons cost no second scoring. Metrics are instantiated directly: `evaluate.load` downloads code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
from numpy.typing import NDArray

from forgeline.errors import EvaluationError
from forgeline.evaluation.metrics.without import without

# For evaluators that nobody here uses it would import all of transformers' pipelines, and torch: ten seconds.
with without("transformers.pipelines"):
    import evaluate

Table = NDArray[np.float64]

TEXT, NUMBER = datasets.Value("string"), datasets.Value("float64")
REPLIES = {"predictions": TEXT, "references": datasets.Sequence(TEXT)}

# What an evaluation knows of each test prompt; a metric names those that it is computed from.
COLUMNS: dict[str, Any] = {
    **REPLIES,
    "prompts": TEXT,  # the last turn before the reply
    "stopped": datasets.Value("bool"),  # the reply ended by itself
    "tokens": NUMBER,  # of the reply
    "waited": NUMBER,  # seconds from the question to the whole reply; with others, if they were asked together
    "seconds": NUMBER,  # of computing: those of a batch are shared out evenly
    "nats": NUMBER,  # the summed loss of the accepted completion
    "scored_tokens": NUMBER,  # of the accepted completion
}


class CorpusMetric(evaluate.Metric):
    """A metric whose `compute` returns its corpus value under its name, and its `statistics` table.

    A subclass names its `columns` (some of COLUMNS) and its `source`, and says which way is `better`. Options
    are keyword arguments of its constructor, and stand under its name in configs/evaluate.yaml. A value that
    does not follow from sums overrides `values`.

    `compute` raises EvaluationError where there is no honest number: a prompt without references, or an
    example whose statistics are no numbers.
    """

    columns: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"] | None] = "higher"
    by_token: ClassVar[bool] = False  # an average over tokens, which means nothing across vocabularies
    statistics: Callable[..., Table]  # one row of sufficient statistics an example
    value: Callable[[Table], float]  # the corpus value for the column sums of such a table

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def values(self, table: Table, draws: Table) -> Table:
        """Return the value of each resample; row s of `draws` says how often each example is in it."""
        return np.array([self.value(totals) for totals in draws @ table])

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({name: COLUMNS[name] for name in self.columns})
        return evaluate.MetricInfo(description=type(self).__doc__, citation=self.source, features=features)

    def _compute(self, **columns: Any) -> dict[str, Any]:
        if lacking := sum(not accepted for accepted in columns.get("references", ())):
            of = len(columns["references"])
            raise EvaluationError(f"{self.name} compares with references, and {lacking} of {of} prompts have none.")
        table = np.asarray(self.statistics(**columns), dtype=float)
        if unknown := len(table) - int(np.isfinite(table).all(axis=1).sum()):
            raise EvaluationError(f"{self.name} is no number for {unknown} of {len(table)} examples.")
        value = self.values(table, np.ones((1, len(table))))[0]
        return {self.name: float(value), "statistics": table.tolist()}


class Mean(CorpusMetric):
    """A metric that is the mean of what each example scores, or a ratio of two sums."""

    @staticmethod
    def value(totals: Table) -> float:
        """Return the first column's sum over the second's; 0 where that is 0, as in a sample without a slot."""
        return float(totals[0] / totals[1]) if totals[1] else 0.0

    def values(self, table: Table, draws: Table) -> Table:
        """Return the value of each resample, all at once."""
        upper, lower = (draws @ table[:, :2]).T
        values: Table = np.divide(upper, lower, out=np.zeros_like(upper), where=lower != 0)
        return values


def with_ones(values: Iterable[float]) -> Table:
    """Return (value, 1) for each example: the statistics of a mean."""
    column = np.fromiter(values, dtype=float)
    return np.stack([column, np.ones(len(column))], axis=1)
