"""What the OpenAI chat API says on the wire: requests, replies and errors.

Source: https://platform.openai.com/docs/api-reference/chat. What the gateway does not do is refused by
name, never ignored.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from forgeline.config.schema import Sampling
from forgeline.records import Message
from forgeline.serving.engines import GenerationRequest, Usage

Zero = Annotated[float, Field(ge=0, le=0)]
StopString = Annotated[str, Field(min_length=1, max_length=200)]


class StreamOptions(BaseModel):
    """What a stream brings besides text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    # Clients send these with the values that change nothing; other values are refused.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logprobs: Literal[False] | None = None

    @model_validator(mode="after")
    def _is_text(self) -> ChatRequest:
        try:
            "".join([self.model, *(message.content for message in self.messages)]).encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate is not a character") from None
        return self

    def to_generation(self, sampling: Sampling) -> GenerationRequest:
        """Return what the engine is asked; `sampling` fills what the request does not name."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationRequest(
            messages=[message.model_dump() for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens or sampling.max_tokens,
            temperature=sampling.temperature if self.temperature is None else self.temperature,
            top_p=sampling.top_p if self.top_p is None else self.top_p,
            stop=tuple(stop),
            seed=self.seed,
        )


class ApiError(HTTPException):
    """An error in OpenAI's shape: `{"error": {message, type, param, code}}`."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(status, message, {"Retry-After": str(retry_after)} if retry_after else None)
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kinds = {429: "rate_limit_error"}
        kind = kinds.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


def from_validation(faults: list[Any]) -> ApiError:
    """Return a 400 that names the first fault of a request body."""
    fault = faults[0]
    param = ".".join(str(key) for key in fault["loc"][1:]) or None
    if fault["type"] == "extra_forbidden":
        return ApiError(
            400, f"`{param}` is not supported by this server; leave it out.", "unsupported_parameter", param
        )
    if fault["type"] == "json_invalid":
        return ApiError(400, "The request body is not JSON.", "invalid_json")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param or 'The request body'}: {fault['msg']}.", code, param)


class Completion:
    """One reply on the wire, whole or in chunks, under one id."""

    def __init__(self, request_id: str, model: str, fingerprint: str) -> None:
        self._identity = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        """Return a `chat.completion`."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._identity, "object": "chat.completion", "choices": [choice], "usage": _usage(usage)}

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """Return a `chat.completion.chunk` with a part of the reply."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._identity, "object": "chat.completion.chunk", "choices": [choice]}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk after the last one, for who asked for the usage."""
        return {**self._identity, "object": "chat.completion.chunk", "choices": [], "usage": _usage(usage)}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
