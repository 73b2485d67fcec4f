"""The queue of replies that a person must look at, and what each of them decided."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    RowMapping,
    String,
    Table,
    Text,
    func,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from forgeline.config.schema.serve.people import Review
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.interactions import as_text, is_sampled, plain
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import METADATA, Store
from forgeline.serving.gateway.webhooks.deliveries import Event

REVIEWS = Table(
    "reviews",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("ticket", String(32), nullable=False, unique=True),
    Column("interaction_id", String(64), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    *(Column(name, Text, nullable=False) for name in ("caller", "tenant", "version", "model", "why")),
    Column("risk", Integer, nullable=False),
    Column("wait", Boolean, nullable=False),
    Column("decided", Boolean, nullable=False, index=True),
    Column("verdicts", Text, nullable=False),
    Column("messages", Text),
    Column("reply", Text),
    Column("claimed_by", Text),
    Column("claimed_until", Float),
    Column("decision", Text),
    Column("decided_by", Text),
    Column("decided_at", Float),
    Column("reason", Text),
    Column("final", Text),
)
EVENTS = Table(
    "review_events",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("review", String(32), nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("why", Text),
)
Why = Literal["always", "flagged", "sample", "queue"]
RISKS = {"pass": 0, "mask": 1, "flag": 2, "block": 3}
NO_REPLY = 3
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # none that is mistaken for another


class Reviews:
    """Which replies are queued under the policy `people.review`, and how people decide on them.

    `tell` hears of every event, `review.requested` and `review.decided`, with the review as JSON values and its tenant.
    """

    def __init__(
        self,
        store: Store,
        policy: Review,
        tell: Callable[[Event, dict[str, Any], str], None] = lambda event, review, tenant: None,
    ) -> None:
        self.store = store
        self.policy = policy
        self._tell = tell

    def due(self, exchange: Exchange) -> Why | None:
        """Return why a person must look at an answered exchange, None if nobody need."""
        if self.policy.when == "always":
            return "always"
        if self.policy.when == "flagged" and _risk(exchange) >= RISKS["flag"]:
            return "flagged"
        return "sample" if is_sampled(f"review {exchange.id}", self.policy.sample) else None

    @property
    def may_hold(self) -> bool:
        """Whether some callers wait for a person, so that nothing can be streamed."""
        return self.policy.wait and self.policy.when != "never"

    def waits(self, why: Why) -> bool:
        """Whether the caller gets a ticket, and the reply once a person has approved it."""
        return why == "queue" or (self.policy.wait and why != "sample")

    async def submit(self, exchange: Exchange, why: Why) -> str:
        """Queue an exchange, and return its ticket; it is on `exchange.ticket` too.

        Raises:
            StoreFailed: if the review could not be kept.
        """
        exchange.ticket = "T-" + "".join(secrets.choice(ALPHABET) for _ in range(16))
        review = {
            "key": uuid.uuid4().hex,
            "ticket": exchange.ticket,
            "interaction_id": exchange.id,
            "at": time.time(),
            "caller": exchange.caller.id,
            "tenant": exchange.caller.tenant,
            "version": exchange.served.version,
            "model": exchange.served.model,
            "why": why,
            "risk": _risk(exchange) if exchange.reply else NO_REPLY,
            "wait": self.waits(why),
            "decided": False,
            "verdicts": as_text([vars(verdict) for verdict in exchange.verdicts]),
            "messages": as_text(exchange.request.messages),
            "reply": plain(exchange.reply),
        }

        await self.store.keep(REVIEWS, review)
        await self.store.keep(EVENTS, _event(str(review["key"]), exchange.caller.id, "opened", why))
        told = {name: review[name] for name in ("ticket", "interaction_id", "why", "risk")}
        self._tell("review.requested", told, exchange.caller.tenant)
        return exchange.ticket

    async def open_ticket(self, exchange: Exchange) -> str:
        """Queue what no engine answered: a person writes the reply. Raise StoreFailed if that cannot be promised."""
        return await self.submit(exchange, "queue")

    async def claim(self, key: str, who: Caller) -> dict[str, Any]:
        """Take a review for some time; raise ApiError 404 or 409 if it is not to be had."""
        values = {"claimed_by": who.id, "claimed_until": time.time() + self.policy.claim}
        return await self._change(key, who, "claimed", values)

    async def approve(self, key: str, who: Caller) -> dict[str, Any]:
        """Let the reply stand.

        Raises:
            ApiError: 404 for no such review, 403 for one's own request, 409 if another was first or there is no reply.
        """
        return await self._decide(key, who, "approved", {"final": REVIEWS.c.reply}, None)

    async def edit(self, key: str, who: Caller, text: str) -> dict[str, Any]:
        """Let another text stand; raise ApiError as `approve` does."""
        return await self._decide(key, who, "edited", {"final": plain(text)}, None)

    async def reject(self, key: str, who: Caller, reason: str) -> dict[str, Any]:
        """Let nothing stand; raise ApiError as `approve` does."""
        return await self._decide(key, who, "rejected", {"reason": plain(reason)}, plain(reason))

    async def counts(self) -> dict[str, Any]:
        """Return how many reviews there are in each state, and the age of the oldest open one in seconds."""
        now, columns = time.time(), REVIEWS.c
        held = func.count().filter(~columns.decided, columns.claimed_until > now)
        waiting = func.count().filter(~columns.decided)
        oldest = func.min(columns.at).filter(~columns.decided)
        query = select(
            held.label("claimed"), waiting.label("waiting"), func.count().label("all"), oldest.label("oldest")
        )
        found = (await self.store.read(query.select_from(REVIEWS)))[0]
        return {
            "open": found["waiting"] - found["claimed"],
            "claimed": found["claimed"],
            "decided": found["all"] - found["waiting"],
            "oldest": None if found["oldest"] is None else now - found["oldest"],
        }

    async def one(self, key: str) -> RowMapping:
        """Return a review's row; raise ApiError 404 if there is none."""
        return _only(await self.store.read(select(REVIEWS).where(REVIEWS.c.key == key)))

    async def _decide(
        self, key: str, who: Caller, decision: str, values: dict[str, Any], why: str | None
    ) -> dict[str, Any]:
        values = {"decided": True, "decision": decision, "decided_by": who.id, "decided_at": time.time(), **values}
        review = await self._change(key, who, decision, values, why)
        told = {name: review[name] for name in ("id", "ticket", "interaction_id", "decision")}
        self._tell("review.decided", told, review["tenant"])
        return review

    async def _change(
        self, key: str, who: Caller, what: str, values: dict[str, Any], why: str | None = None
    ) -> dict[str, Any]:
        def change(connection: Connection) -> RowMapping:
            """Change the row if it is free, and say what is in the way if it is not, in one transaction."""
            query = select(REVIEWS).where(REVIEWS.c.key == key)
            before = _only(list(connection.execute(query).mappings()))
            if values.get("decided") and before["caller"] == who.id:
                raise ApiError(403, "Whoever asked may not decide: another person must.", "own_request")
            if what == "approved" and not before["reply"]:
                raise ApiError(409, "There is no reply to approve: write one by /edit.", "no_reply")
            changed = update(REVIEWS).where(REVIEWS.c.key == key, _is_free_for(who)).values(values)
            if not connection.execute(changed).rowcount:
                raise _taken(_only(list(connection.execute(query).mappings())))
            connection.execute(EVENTS.insert(), _event(key, who.id, what, why))
            return connection.execute(query).mappings().one()

        return shown(await self.store.written(self.store.do(change)), who)


def shown(row: RowMapping, reader: Caller) -> dict[str, Any]:
    """Return a review as JSON values for one of its readers."""
    now = time.time()
    held = not row["decided"] and (row["claimed_until"] or 0) > now
    return {
        "id": row["key"],
        **{name: value for name, value in row.items() if name not in {"key", "decided"}},
        "age": now - row["at"],
        "state": "decided" if row["decided"] else "claimed" if held else "open",
        "verdicts": json.loads(row["verdicts"]),
        "messages": json.loads(row["messages"]) if row["messages"] else None,
        "claimed_by": row["claimed_by"] if held else None,
        "claimed_until": row["claimed_until"] if held else None,
        "mine": row["caller"] == reader.id,
    }


def _is_free_for(who: Caller) -> ColumnElement[bool]:
    columns = REVIEWS.c
    lapsed = columns.claimed_until.is_(None) | (columns.claimed_until < time.time())
    return ~columns.decided & (lapsed | (columns.claimed_by == who.id))


def _taken(row: RowMapping) -> ApiError:
    if row["decided"]:
        return ApiError(409, f"This review is decided: {row['decision']} by {row['decided_by']}.", "decided")
    return ApiError(409, f"{row['claimed_by']} looks at this review now.", "claimed")


def _only(rows: list[RowMapping]) -> RowMapping:
    if not rows:
        raise ApiError(404, "There is no such review.", "review_not_found")
    return rows[0]


def _event(review: str, who: str, what: str, why: str | None) -> dict[str, Any]:
    return {"key": uuid.uuid4().hex, "review": review, "at": time.time(), "who": who, "what": what, "why": why}


def _risk(exchange: Exchange) -> int:
    return max((RISKS[verdict.action] for verdict in exchange.verdicts), default=0)
