"""The log of interactions: one row a request, which bundle and run answered it, and its texts, masked."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from sqlalchemy import Boolean, Column, Float, Integer, RowMapping, Select, String, Table, Text, select
from sqlalchemy.exc import DBAPIError

from forgeline.config.schema.serve.seen import Seen
from forgeline.serving.gateway.exchange import Exchange, fresh
from forgeline.serving.gateway.pages import After, Id, Limit, Name, Since, newest_first, page
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import METADATA, Store, StoreFailed

# `key` is the row's own: a caller may give the same request id, `id`, twice.
INTERACTIONS = Table(
    "interactions",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("id", String(64), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    *(Column(name, Text, nullable=False) for name in ("caller", "tenant", "model", "version", "bundle", "run", "rung")),
    Column("engine", Text),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("finish_reason", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("cost", Float, nullable=False),
    Column("first_token", Float),
    Column("seconds", Float, nullable=False),
    Column("ticket", Text),
    Column("verdicts", Text, nullable=False),
    Column("marks", Text, nullable=False),  # " guard:action " of what was not let pass, to be searched
    Column("facts", Text),
    Column("sampled", Boolean, nullable=False),
    Column("messages", Text),
    Column("reply", Text),
)
NOT_ENGINES = {"", "cache", "semantic", "stale", "template", "queue"}
JSON_COLUMNS = ("verdicts", "facts", "messages")


class Interactions:
    """What is written of each exchange, under the policy `seen`."""

    def __init__(self, store: Store, seen: Seen) -> None:
        self._store = store
        self._seen = seen

    def check(self) -> None:
        """Raise ApiError 503 while nothing can be written and the policy is to refuse then."""
        if self._seen.when_behind == "refuse" and self._store.behind_since is not None:
            raise _unavailable()

    async def record(self, exchange: Exchange, status: int, error: str | None = None, cost: float = 0.0) -> None:
        """Return once the interaction is kept: committed, or by the policy `answer` kept beside the database.

        Raises:
            ApiError: 503 `audit_unavailable` if it cannot be kept.
        """
        row = self._row(exchange, status, error, cost)
        try:
            if self._seen.when_behind == "refuse":
                await self._store.write(INTERACTIONS.insert(), row)
            else:
                await self._store.keep(INTERACTIONS, row)
        except (StoreFailed, DBAPIError) as fault:
            raise _unavailable() from fault

    def _row(self, exchange: Exchange, status: int, error: str | None, cost: float) -> dict[str, Any]:
        sampled = is_sampled(exchange.id, self._seen.sample)
        usage, served = exchange.usage, exchange.served
        return {
            "key": fresh(),
            "id": exchange.id,
            "at": time.time() - exchange.age(),
            "caller": exchange.caller.id,
            "tenant": exchange.caller.tenant,
            "model": exchange.request.model or served.model,
            "version": served.version,
            "bundle": served.bundle,
            "run": served.run,
            "rung": exchange.rung,
            "engine": None if exchange.rung in NOT_ENGINES else exchange.rung,
            "stream": exchange.stream,
            "status": status,
            "error": error,
            "finish_reason": exchange.finish_reason,
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "cost": cost,
            "first_token": exchange.first_token,
            "seconds": exchange.age(),
            "ticket": exchange.ticket,
            "verdicts": as_text([vars(verdict) for verdict in exchange.verdicts]),
            "marks": "".join(f" {v.guard}:{v.action} " for v in exchange.verdicts if v.action != "pass"),
            "facts": as_text(exchange.facts) if sampled else None,
            "sampled": sampled,
            "messages": as_text(exchange.request.messages) if sampled else None,
            "reply": plain(exchange.reply) if sampled else None,
        }


def router(store: Store) -> APIRouter:
    """Return the routes for auditors."""
    routes = APIRouter()

    @routes.get("/v1/interactions")
    async def interactions(
        since: Since = None,
        until: Since = None,
        caller: Name = None,
        tenant: Name = None,
        version: Name = None,
        status: Annotated[int | None, Query(ge=100, le=599)] = None,
        verdict: Annotated[str | None, Query(pattern=r"^[\w.-]{1,80}(:[a-z]+)?$")] = None,
        limit: Limit = 50,
        after: After = None,
    ) -> dict[str, Any]:
        columns = INTERACTIONS.c
        same = {"caller": caller, "tenant": tenant, "version": version, "status": status}
        where = [columns[name] == value for name, value in same.items() if value is not None]
        where += [columns.at >= since] if since is not None else []
        where += [columns.at < until] if until is not None else []
        if verdict is not None:
            guard, action = f" {verdict}" if ":" in verdict else f" {verdict}:", f":{verdict} "
            where.append(
                columns.marks.contains(guard, autoescape=True) | columns.marks.contains(action, autoescape=True)
            )
        rows, following = await page(store, INTERACTIONS, where, newest_first(INTERACTIONS), limit, after)
        return {"data": [shown(row) for row in rows], "next": following}

    @routes.get("/v1/interactions/{id_}")
    async def interaction(id_: Id) -> dict[str, Any]:
        return shown(await found(store, id_))

    return routes


async def found(store: Store, id_: str, tenant: str | None = None) -> RowMapping:
    """Return the row of a request id, of one tenant if it is given; raise ApiError 404 if there is none."""
    query = _of(id_)
    rows = await store.read(query if tenant is None else query.where(INTERACTIONS.c.tenant == tenant))
    if not rows:
        raise ApiError(404, f"There is no interaction {id_!r} here.", "interaction_not_found", "interaction_id")
    return rows[0]


def latest(address: str, id_: str) -> RowMapping:
    """Return the row of a request id from the database at an address; raise StoreFailed if it is not there."""
    rows = Store(address).read_now(_of(id_))
    if not rows:
        raise StoreFailed(f"The gateway's database (serve.store) does not know request {id_}: is it the x-request-id?")
    return rows[0]


def _of(id_: str) -> Select[Any]:
    return select(INTERACTIONS).where(INTERACTIONS.c.id == id_).order_by(INTERACTIONS.c.at.desc()).limit(1)


def shown(row: RowMapping) -> dict[str, Any]:
    """Return a row as JSON values."""
    values = {name: value for name, value in row.items() if name not in {"key", "marks"}}
    return values | {name: json.loads(row[name]) if row[name] else None for name in JSON_COLUMNS}


def is_sampled(id_: str, share: float) -> bool:
    """Whether an id falls into a share of all ids; the same id always does or never."""
    return int.from_bytes(hashlib.sha256(id_.encode()).digest()[:8]) < share * 2**64


def as_text(value: Any) -> str:
    """Return a value as JSON in which its words can be searched."""
    return orjson.dumps(value).decode()


def plain(text: str) -> str:
    """Return a text that every database takes: PostgreSQL has no NUL."""
    return text.replace("\0", "\ufffd")


def _unavailable() -> ApiError:
    message = "The gateway cannot keep a record of this request now, and answers none without."
    return ApiError(503, message, "audit_unavailable", retry_after=5)
