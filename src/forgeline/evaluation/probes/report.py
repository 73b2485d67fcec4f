"""What probes found of one model: estimates, what could not be measured and why, and rows a person can read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Estimate
from forgeline.records import write_json


class ProbeReport(BaseModel):
    """The probes of one model. `at` is ISO 8601; `examples` holds some rows by probe.

    `data_digest` and `test_digest` name the dataset version and the test prompts that were at hand.
    """

    model: str
    at: str
    data_digest: str
    test_digest: str
    estimates: dict[str, Estimate]
    not_measured: dict[str, str]
    examples: dict[str, list[dict[str, str]]]

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @staticmethod
    def read(path: Path) -> ProbeReport:
        """Return a saved report; raise EvaluationError if it is not what this version writes."""
        try:
            return ProbeReport.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            fault = error.errors()[0]
            raise EvaluationError(
                f"{path} is no probe report that this Forgeline reads ({'.'.join(map(str, fault['loc']))}: "
                f"{fault['msg']}): probe the model again."
            ) from error

    def over(self, older: ProbeReport | None) -> ProbeReport:
        """Return this report with what only an older one of the same data and test prompts has."""
        if older is None or (older.data_digest, older.test_digest) != (self.data_digest, self.test_digest):
            return self
        told = self.estimates.keys() | self.not_measured.keys()
        return self.model_copy(
            update={
                "estimates": {k: v for k, v in older.estimates.items() if k not in told} | self.estimates,
                "not_measured": {k: v for k, v in older.not_measured.items() if k not in told} | self.not_measured,
                "examples": older.examples | self.examples,
            }
        )
