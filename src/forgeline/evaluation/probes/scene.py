"""What probes are given, and how they count."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from forgeline.config.schema import Pii, Probes
from forgeline.data.versions import DataVersion
from forgeline.evaluation.bootstrap import Estimate, percentiles, resamples
from forgeline.evaluation.report import Report
from forgeline.evaluation.subjects import Messages, Subject
from forgeline.records import Record

Row = TypeVar("Row")
EXAMPLES = 5  # rows kept for people


@dataclass
class Findings:
    """What one probe found."""

    estimates: dict[str, Estimate] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """One model and all that is known of it.

    `data` is the dataset version at hand and `test` its test prompts. `trained` holds the ids of the records
    that were learned from, None if nobody knows. `report` is an evaluation of the same model, whose replies
    are not asked for again. `base` loads what the model was tuned from. `pii` says what personal data are.
    """

    subject: Subject
    settings: Probes
    pii: Pii
    root: Path
    data: DataVersion
    test: list[Record]
    report: Report | None = None
    trained: frozenset[str] | None = None
    canaries: tuple[Record, ...] = ()
    base: Callable[[], Subject] | None = None

    @property
    def train(self) -> Path:
        """The training split."""
        return self.root / self.data.paths["train"]

    def sample(self, rows: Sequence[Row], limit: int) -> list[Row]:
        """Return at most `limit` rows, in an order that the seed sets."""
        return random.Random(self.settings.seed).sample(rows, min(limit, len(rows)))

    def ask(self, prompts: Sequence[Messages]) -> list[str]:
        """Return the greedy replies to prompts."""
        return [reply.text for reply in self.subject.replies(prompts, self.settings.max_new_tokens)]

    def replies(self, records: Sequence[Record]) -> list[str]:
        """Return the replies to test records: the report's where it has them, for they cost nothing."""
        known = {(row.id, row.prompt): row.reply for row in self.report.rows} if self.report else {}
        keys = [(record.id, record.prompt[-1]["content"] if record.prompt else "") for record in records]
        missing = [record.prompt for record, key in zip(records, keys, strict=True) if key not in known]
        asked = iter(self.ask(missing) if missing else ())
        return [known[key] if key in known else next(asked) for key in keys]

    def share(self, hits: Sequence[bool]) -> Estimate:
        """Return the share of hits with its Wilson interval (1927)."""
        from forgeline.data.bias.intervals import wilson

        n, confidence = len(hits), self.settings.confidence
        low, high = wilson(sum(hits), n, confidence)
        return Estimate(value=sum(hits) / n, low=low, high=high, n=n, confidence=confidence)

    def ratio(self, tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
        """Return a sum over another, a mean where `bottoms` are ones, with its bootstrap interval over examples."""
        top, bottom = np.array(tops, dtype=float), np.array(bottoms, dtype=float)
        draws = resamples(len(top), self.settings.bootstrap_samples, self.settings.seed)
        values = (draws @ top) / (draws @ bottom)
        return percentiles(float(top.sum() / bottom.sum()), values, len(top), self.settings.confidence)

    def mean(self, values: Sequence[float]) -> Estimate:
        """Return a mean with its bootstrap interval over examples."""
        return self.ratio(values, np.ones(len(values)).tolist())

    def unlikely(self, *names: str) -> Findings:
        """Return that nothing was measured, because the model does not tell likelihoods."""
        return Findings(not_measured=dict.fromkeys(names, f"{self.subject.name} does not tell how likely a text is"))
