"""The routes of roll-outs, for operators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from forgeline.config.schema.serve.rollout import CallerShare
from forgeline.records import Message
from forgeline.serving.gateway.exchange import caller_of
from forgeline.serving.gateway.rollout.change import Question
from forgeline.serving.gateway.rollout.rollouts import Rollouts
from forgeline.serving.gateway.rollout.trial import Mode

Line = StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$")
Reason = Annotated[str, Line]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w-]{0,63}$")]


class Why(BaseModel):
    """Why something is decided; it goes into the ledger."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason


class Smoke(BaseModel):
    """A question, and what the bundle says to it."""

    model_config = ConfigDict(extra="forbid")
    messages: Annotated[list[Message], Field(min_length=1)]
    reply: str
    max_tokens: Annotated[int, Field(ge=1, le=4096)]


class Start(Why):
    """What is to be tried: a bundle beside the live one, by its name or version, or what `challenger.json` orders."""

    bundle: Name | None = None
    mode: Mode = "canary"
    share: CallerShare | None = None
    smoke: Annotated[list[Smoke], Field(max_length=32)] = []


class Share(Why):
    """Another share."""

    share: CallerShare


class Back(Why):
    """What to go back to, if not to what was live before."""

    bundle: Name | None = None


def router(rollouts: Rollouts) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/v1/rollout")
    async def rollout() -> dict[str, Any]:
        return rollouts.shown()

    @routes.post("/v1/rollout")
    async def start(body: Start, http: Request) -> dict[str, Any]:
        questions = [
            Question([turn.model_dump() for turn in one.messages], one.reply, one.max_tokens) for one in body.smoke
        ]
        return await rollouts.start(body.bundle, body.mode, body.share, caller_of(http).id, body.reason, questions)

    @routes.post("/v1/rollout/promote")
    async def promote(body: Why, http: Request) -> dict[str, Any]:
        return await rollouts.promote(caller_of(http).id, body.reason)

    @routes.post("/v1/rollout/abort")
    async def abort(body: Why, http: Request) -> dict[str, Any]:
        return await rollouts.abort(caller_of(http).id, body.reason)

    @routes.post("/v1/rollout/share")
    async def share(body: Share, http: Request) -> dict[str, Any]:
        return await rollouts.set_share(body.share, caller_of(http).id, body.reason)

    @routes.post("/v1/rollout/rollback")
    async def roll_back(body: Back, http: Request) -> dict[str, Any]:
        return await rollouts.roll_back(body.bundle, caller_of(http).id, body.reason)

    return routes
