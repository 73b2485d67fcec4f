"""What people decided about single rows: one line each, never changed once written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from forgeline.data.layout import DECISIONS
from forgeline.errors import DataError
from forgeline.records import read_jsonl, write_jsonl

Verdict = Literal["keep", "drop", "edit"]


class Decision(BaseModel):
    """What one person decided about the row `id`.

    `keep` exempts the row from the rules, `drop` sends it to quarantine, and `edit` puts `completion`
    in the place of what it said. `when` (ISO 8601, UTC) is empty where the file told no time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    verdict: Verdict
    completion: str | None = None
    who: str
    when: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _edits_say_what(self) -> Decision:
        if (self.verdict == "edit") != bool(self.completion and self.completion.strip()):
            raise ValueError("an edit, and nothing else, has a completion")
        return self


def decisions(root: Path) -> dict[str, Decision]:
    """Return what holds for each row that people judged: the newest decision on it.

    Raises:
        DataError: naming line and field of an entry that cannot be read.
    """
    raise NotImplementedError
