"""The lines of a batch's file: one request each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forgeline.config.schema.serve.people import Batch as Settings
from forgeline.serving.gateway.protocol import ApiError

FAULTS = 10  # told at once


class Line(BaseModel):
    """A request and the name that its answer will carry."""

    model_config = ConfigDict(extra="forbid")
    custom_id: Annotated[str, Field(min_length=1, max_length=200)]
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: dict[str, Any]


def read_lines(content: bytes, settings: Settings) -> list[Line]:
    """Return the requests of a file; blank lines are none.

    Raises:
        ApiError: 400 that names the first faults, each with its line.
    """
    texts = content.split(b"\n")
    if len(texts) > settings.max_lines and sum(map(bool, map(bytes.strip, texts))) > settings.max_lines:
        raise _refusal([f"more than {settings.max_lines} lines"])
    lines: list[Line] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if not text.strip() or len(faults) == FAULTS:
            continue
        try:
            line = _read(text, settings)
            if number > (first := seen.setdefault(line.custom_id, number)):
                raise ValueError(f"the custom_id {line.custom_id!r} is that of line {first} too")
            lines.append(line)
        except ValueError as fault:
            faults.append(f"line {number}: {fault}")
    if faults or not lines:
        raise _refusal(faults or ["no requests in it"])
    return lines


def stored_lines(content: bytes) -> list[Line]:
    """Return the requests of a file that was read before."""
    return [Line.model_validate(orjson.loads(text)) for text in content.split(b"\n") if text.strip()]


def _read(text: bytes, settings: Settings) -> Line:
    if len(text) > settings.max_line:
        raise ValueError(f"longer than {settings.max_line} bytes")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise ValueError(f"not JSON ({fault})") from None
    try:
        line = Line.model_validate(value)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}") from None
    if line.body.get("stream"):
        raise ValueError("body.stream: a batch does not stream")
    return line


def _refusal(faults: list[str]) -> ApiError:
    return ApiError(400, f"The file cannot be a batch: {'; '.join(faults)}.", "invalid_batch_file", "file")
