"""The canonical record: one conversation whose last turn is what the model should say."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from forgeline.errors import DataError


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str


class Record(BaseModel):
    """One training or evaluation example.

    `messages` ends with the assistant's turn, the completion; in plain text it is the only turn.
    `references` holds every accepted completion of an evaluation prompt, the completion among them.
    `rejected` is the completion that people liked less, `label` whether they liked this one, `weight`
    what the example counts for in training. `key` names what must not straddle splits, `subject` whose
    data it is, `groups` the slices it is reported under, `time` (ISO 8601) when it was said, `source`
    the source's name in the configuration, and `origin` the row there. `groups` and `origin` hold strings
    and JSON values.
    """

    model_config = ConfigDict(extra="forbid")
    id: str
    messages: list[Message] = Field(min_length=1)
    references: list[str] = []
    rejected: str | None = None
    label: bool | None = None
    weight: float = 1.0
    key: str
    subject: str | None = None
    groups: dict[str, str] = {}
    time: str | None = None
    source: str | None = None
    origin: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ends_with_completion(self) -> Record:
        if self.messages[-1].role != "assistant" or not self.messages[-1].content.strip():
            raise ValueError("the last message must be the assistant's completion, and not empty")
        return self

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The turns before the completion, as chat messages."""
        return [message.model_dump() for message in self.messages[:-1]]

    @property
    def completion(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield one mapping a line; raise DataError naming file and line for anything else."""
    if not path.exists():
        raise DataError(f"{path} does not exist: run `forgeline data` to make it.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as fault:
                raise DataError(f"{path}, line {number}: not JSON ({fault.msg}): {line[:80]!r}") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object, found {type(row).__name__}.")
            yield row


def read_records(path: Path) -> list[Record]:
    """Return the records of a JSONL file; raise DataError naming line and field of a malformed one."""
    records = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            records.append(Record.model_validate(row))
        except ValidationError as fault:
            first = fault.errors()[0]
            field = ".".join(map(str, first["loc"])) or "record"
            raise DataError(f"{path}, line {number}, {field}: {first['msg']}.") from None
    return records


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write one JSON object a line, whole or not at all, and return how many were written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
