"""What one model scored on one test set: values, intervals, every reply, and the statistics behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Estimate
from forgeline.records import write_json


class Row(BaseModel):
    """One test prompt, what people answered, and what the model did."""

    id: str
    prompt: str
    references: list[str]
    reply: str
    tokens: int
    stopped: bool
    groups: dict[str, str]


class Report(BaseModel):
    """One evaluation. `test_digest` names the prompts: only reports that share it can be compared.

    `vocabulary` names the tokens that perplexity is an average over, and is empty where they are not known.
    `at` (ISO 8601) is when it was made. `settings` holds the options of each metric that was measured, and
    `not_measured` says of the others why.
    """

    model: str
    at: str
    test_digest: str
    vocabulary: str
    signature: str
    settings: dict[str, dict[str, Any]]
    metrics: dict[str, Estimate]
    not_measured: dict[str, str]
    seconds: dict[str, float]
    rows: list[Row]
    statistics: dict[str, list[list[float]]]

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @staticmethod
    def read(path: Path) -> Report:
        """Return a saved report; raise EvaluationError if the file is missing, or not what this version writes."""
        if not path.exists():
            raise EvaluationError(f"{path} is missing: evaluate the model again with `forgeline evaluate`.")
        try:
            return Report.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            fault = error.errors()[0]
            raise EvaluationError(
                f"{path} is no report that this Forgeline reads ({'.'.join(map(str, fault['loc']))}: {fault['msg']}): "
                "evaluate the model again."
            ) from error
