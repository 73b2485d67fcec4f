"""What `/openapi.json` says that no route's signature does: who may, how a refusal reads, and a reply on the wire."""

from __future__ import annotations

import re
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from forgeline.serving.gateway.access.routes import ALL, entry


class Told(BaseModel):
    """A part of an answer, with all that it may say. It describes only: no answer is built of it."""

    model_config = ConfigDict(extra="forbid")


class Fault(Told):
    """What went wrong; `code` is for programs, `param` the part of the request that is at fault."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class Refusal(Told):
    """The body of every error, in OpenAI's shape."""

    error: Fault


class Likelihood(Told):
    """A token's text, its log-probability and its bytes; null where the token is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLikelihood(Likelihood):
    """A token of the reply, and the likeliest in its place."""

    top_logprobs: list[Likelihood]


class Likelihoods(Told):
    """Those of a reply."""

    content: list[TokenLikelihood]
    refusal: None


class Reply(Told):
    """The model's turn."""

    role: Literal["assistant"]
    content: str


class Choice(Told):
    """The only one."""

    index: Literal[0]
    message: Reply
    logprobs: Likelihoods | None
    finish_reason: str


class UsedTokens(Told):
    """How many were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Verdict(Told):
    """What a guard found that it did not let pass, without the text."""

    guard: str
    side: Literal["in", "out"]
    action: Literal["flag", "mask", "block"]
    detail: str


class Provenance(Told):
    """What answered, the ticket if a person looks at it, what was looked up, and what the guards found."""

    version: str
    rung: str
    ticket: str | None
    facts: list[str]
    verdicts: list[Verdict]


class ChatCompletion(Told):
    """A reply that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: UsedTokens
    forgeline: Provenance


class Ticket(Told):
    """A person must look first: ask at `url` what became of it."""

    object: Literal["review.ticket"]
    ticket: str
    state: Literal["waiting"]
    url: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "It is not done, for a reason that lies with the request."},
    "5XX": {"model": Refusal, "description": "The server failed or cannot do it now; `Retry-After` may say when."},
}
CHAT: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ChatCompletion,
        "description": "The reply; with `stream`, its `chat.completion.chunk` objects as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    202: {"model": Ticket, "description": "The reply waits for a person's approval."},
}
KEY = {"type": "http", "scheme": "bearer", "description": "An API key, `fl_…`, or an identity provider's token."}


def told_as(media_type: str) -> dict[int | str, dict[str, Any]]:
    """Return what a route answers that gives a text other than JSON; its `response_class` is a bare Response."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}}}


def describe(app: FastAPI) -> None:
    """Have the schema of an application say of each operation which roles may, by the table that decides it."""
    of_routes = app.openapi

    def openapi() -> dict[str, Any]:
        schema = of_routes()
        schema["components"]["securitySchemes"] = {"key": KEY}
        for path, operations in schema["paths"].items():
            rule = entry(re.sub(r"[{}]", "", path)) or {}
            for method, operation in operations.items():
                roles = rule.get(method.upper(), frozenset())
                if "public" not in roles:
                    operation["security"] = [{"key": []}]
                    operation["x-roles"] = [role for role in ALL if role in roles]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
