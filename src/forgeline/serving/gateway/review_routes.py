"""The routes of the review queue, for reviewers, and of tickets, for callers."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import select

from forgeline.serving.gateway.exchange import caller_of
from forgeline.serving.gateway.pages import After, Id, Limit, page
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.reviews import EVENTS, REVIEWS, Reviews, shown

Words = Annotated[str, StringConstraints(min_length=1, max_length=20_000, pattern=r"\S")]
State = Literal["open", "claimed", "decided"]
RISKIEST_FIRST = ((REVIEWS.c.risk, True), (REVIEWS.c.at, False), (REVIEWS.c.key, False))
LAST_DECIDED_FIRST = ((REVIEWS.c.decided_at, True), (REVIEWS.c.key, True))


class Nothing(BaseModel):
    """A body that says nothing."""

    model_config = ConfigDict(extra="forbid")


class Edit(Nothing):
    """What stands instead."""

    text: Words


class Rejection(Nothing):
    """Why nothing stands."""

    reason: Words


def router(reviews: Reviews) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    store = reviews.store

    @routes.get("/v1/reviews")
    async def queue(http: Request, state: State = "open", limit: Limit = 50, after: After = None) -> dict[str, Any]:
        columns, now = REVIEWS.c, time.time()
        lapsed = columns.claimed_until.is_(None) | (columns.claimed_until <= now)
        where = {"open": ~columns.decided & lapsed, "claimed": ~columns.decided & ~lapsed, "decided": columns.decided}
        order = LAST_DECIDED_FIRST if state == "decided" else RISKIEST_FIRST
        rows, following = await page(store, REVIEWS, [where[state]], order, limit, after)
        counts = await reviews.counts()
        counted = {name: counts[name] for name in ("open", "claimed", "decided")}
        return {"data": [shown(row, caller_of(http)) for row in rows], "next": following, "counts": counted}

    @routes.get("/v1/reviews/tickets/{ticket}")
    async def ticket(ticket: Id, http: Request) -> dict[str, Any]:
        mine = (REVIEWS.c.ticket == ticket, REVIEWS.c.tenant == caller_of(http).tenant)
        found = await store.read(select(REVIEWS).where(*mine))
        if not found:
            raise ApiError(404, "There is no such ticket.", "ticket_not_found", "ticket")
        row = found[0]
        stands = row["final"] if row["decided"] else None if row["wait"] else row["reply"]
        return {
            **waiting(ticket),
            "interaction_id": row["interaction_id"],
            "at": row["at"],
            "state": "rejected" if row["decision"] == "rejected" else "waiting" if stands is None else "answered",
            "reply": stands,
            "finish_reason": None if stands is None else "stop",
            "reason": row["reason"],
        }

    @routes.get("/v1/reviews/{key}")
    async def review(key: Id, http: Request) -> dict[str, Any]:
        row = await reviews.one(key)
        events = await store.read(select(EVENTS).where(EVENTS.c.review == key).order_by(EVENTS.c.at))
        history = [{name: event[name] for name in ("at", "who", "what", "why")} for event in events]
        return {**shown(row, caller_of(http)), "history": history}

    @routes.post("/v1/reviews/{key}/claim")
    async def claim(key: Id, http: Request, body: Nothing | None = None) -> dict[str, Any]:
        return await reviews.claim(key, caller_of(http))

    @routes.post("/v1/reviews/{key}/approve")
    async def approve(key: Id, http: Request, body: Nothing | None = None) -> dict[str, Any]:
        return await reviews.approve(key, caller_of(http))

    @routes.post("/v1/reviews/{key}/edit")
    async def edit(key: Id, body: Edit, http: Request) -> dict[str, Any]:
        return await reviews.edit(key, caller_of(http), body.text)

    @routes.post("/v1/reviews/{key}/reject")
    async def reject(key: Id, body: Rejection, http: Request) -> dict[str, Any]:
        return await reviews.reject(key, caller_of(http), body.reason)

    return routes


def waiting(ticket: str) -> dict[str, Any]:
    """Return the body of a 202: the reply is given once a person has approved it."""
    return {"object": "review.ticket", "ticket": ticket, "state": "waiting", "url": f"/v1/reviews/tickets/{ticket}"}
