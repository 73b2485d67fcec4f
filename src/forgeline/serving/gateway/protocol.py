"""What the OpenAI chat API says on the wire: requests, replies and errors.

Source: https://platform.openai.com/docs/api-reference/chat. What the gateway does not do is refused by
name, never ignored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from forgeline.config.schema import Sampling
from forgeline.errors import ServingError
from forgeline.records import Message
from forgeline.serving.engines import (
    Engine,
    EngineUnavailable,
    GenerationRequest,
    Piece,
    RequestRefused,
    TokenLogprob,
    Usage,
)
from forgeline.serving.gateway.database import StoreFailed

Zero = Annotated[float, Field(ge=0, le=0)]
LARGEST = 2**31 - 1  # what every database's integers hold
Tokens = Annotated[int, Field(ge=1, le=LARGEST)]
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
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # Clients send these with the values that change nothing; other values are refused.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None

    @model_validator(mode="after")
    def _is_text(self) -> ChatRequest:
        try:
            "".join([self.model, *(message.content for message in self.messages)]).encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate is not a character") from None
        return self

    @model_validator(mode="after")
    def _asks_for_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def to_generation(self, engine: Engine, name: str, sampling: Sampling) -> GenerationRequest:
        """Return what the engine of a model called `name` is asked; `sampling` fills what the request does not name.

        Raises:
            ApiError: if the engine serves no such model, or does not give logprobs.
        """
        names = (name, *engine.models)
        if self.model not in names:
            message = f"The model `{self.model}` does not exist; this server serves `{'`, `'.join(names)}`."
            raise ApiError(404, message, "model_not_found", "model")
        if self.logprobs and engine.ready and not engine.gives_logprobs:
            raise _unsupported("logprobs")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationRequest(
            messages=[message.model_dump() for message in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens or sampling.max_tokens,
            temperature=sampling.temperature if self.temperature is None else self.temperature,
            top_p=sampling.top_p if self.top_p is None else self.top_p,
            stop=tuple(stop),
            seed=self.seed,
            model=None if self.model == name else self.model,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
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
        return _unsupported(param)
    if fault["type"] == "json_invalid":
        return ApiError(400, "The request body is not JSON.", "invalid_json")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param or 'The request body'}: {fault['msg']}.", code, param)


def _unsupported(param: str | None) -> ApiError:
    return ApiError(400, f"`{param}` is not supported by this server; leave it out.", "unsupported_parameter", param)


def from_engine(fault: ServingError) -> ApiError:
    """Return what a caller is told of a fault of the engine or the database."""
    if isinstance(fault, RequestRefused):
        return ApiError(400, str(fault), "context_or_template", "messages")
    if isinstance(fault, EngineUnavailable):
        return ApiError(503, str(fault), "unavailable", retry_after=math.ceil(fault.retry_after or 5))
    if isinstance(fault, StoreFailed):
        return ApiError(503, str(fault), "store_unavailable", retry_after=5)
    if isinstance(fault, TimeoutError):
        return ApiError(504, str(fault), "timeout")
    return ApiError(500, str(fault), "engine_failed")


def answer_errors(app: FastAPI) -> None:
    """Give every error of an application OpenAI's shape."""

    def respond(request: Request, error: ApiError) -> JSONResponse:
        request.state.error = error.code
        return JSONResponse(error.body(), error.status_code, error.headers)

    @app.exception_handler(HTTPException)
    async def known(request: Request, fault: HTTPException) -> JSONResponse:
        if isinstance(fault, ApiError):
            return respond(request, fault)
        error = ApiError(fault.status_code, fault.detail, HTTPStatus(fault.status_code).name.lower())
        error.headers = fault.headers  # such as Allow
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> JSONResponse:
        return respond(request, from_validation(list(fault.errors())))

    @app.exception_handler(ServingError)
    async def ours(request: Request, fault: ServingError) -> JSONResponse:
        return respond(request, from_engine(fault))

    @app.exception_handler(Exception)
    async def unknown(request: Request, fault: Exception) -> JSONResponse:
        return respond(request, ApiError(500, "The server failed on this request; its log says why.", "internal"))


def models_page(names: Sequence[str], since: int) -> dict[str, Any]:
    """Return the body of `GET /v1/models`; `since` is when they were first served, in UTC epoch seconds."""
    listed = [{"id": name, "object": "model", "created": since, "owned_by": "forgeline"} for name in names]
    return {"object": "list", "data": listed}


class Completion:
    """One reply on the wire, whole or in chunks; `told` gives what its end says beside OpenAI's fields."""

    def __init__(
        self, request_id: str, model: str, fingerprint: str, told: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        self._told = told
        self._identity = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return a `chat.completion` of all pieces of a reply."""
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs([token for piece in pieces for token in piece.logprobs]),
            "finish_reason": pieces[-1].finish_reason,
        }
        usage, facts = _usage(pieces[-1].usage), [fact for piece in pieces for fact in piece.facts]
        beside = self._beside(facts, ended=True)
        return {**self._identity, "object": "chat.completion", "choices": [choice], "usage": usage, **beside}

    def chunk(self, piece: Piece, delta: dict[str, str]) -> dict[str, Any]:
        """Return a `chat.completion.chunk` that brings a piece of the reply as `delta`."""
        logprobs, reason = _logprobs(piece.logprobs), piece.finish_reason
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        beside = self._beside(piece.facts, ended=reason is not None)
        return {**self._identity, "object": "chat.completion.chunk", "choices": [choice], **beside}

    def _beside(self, facts: Sequence[str], ended: bool) -> dict[str, Any]:
        told = {"facts": list(facts)} if facts else {}
        told |= self._told() if self._told and ended else {}
        return {"forgeline": told} if told else {}

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk after the last one, for who asked for the usage."""
        return {**self._identity, "object": "chat.completion.chunk", "choices": [], "usage": _usage(usage)}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [
        {**_likelihood(token.token, token.logprob), "top_logprobs": [_likelihood(*each) for each in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _likelihood(token: str, logprob: float) -> dict[str, Any]:
    # A token that is a part of a character has no text of its own, and an engine tells no bytes.
    return {"token": token, "logprob": logprob, "bytes": None if "\ufffd" in token else list(token.encode())}
