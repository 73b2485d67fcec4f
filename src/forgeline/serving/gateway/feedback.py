"""What people say of replies: thumbs, words and corrections, each tied to an interaction of their own."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import Boolean, Column, Connection, Float, RowMapping, String, Table, Text, and_, select, update

from forgeline.records import Message, Record
from forgeline.serving.gateway.exchange import Caller, caller_of
from forgeline.serving.gateway.interactions import INTERACTIONS, as_text, found, plain
from forgeline.serving.gateway.pages import After, Id, Limit, Name, Since, newest_first, page
from forgeline.serving.gateway.store import METADATA, Store

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("interaction_id", String(64), nullable=False, index=True),
    Column("interaction", String(32), nullable=False, index=True),  # the key of the very row
    *(Column(name, Text, nullable=False) for name in ("caller", "tenant", "version")),
    Column("thumb", String(4), nullable=False),
    Column("text", Text),
    Column("correction", Text),
    Column("reasons", Text),
    Column("counts", Boolean, nullable=False),  # false once the caller said something else
)
SAID = ("thumb", "text", "correction", "reasons")
PAGE = 500
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]
Correction = Annotated[str, StringConstraints(min_length=1, max_length=20_000, pattern=r"\S")]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]


class Feedback(BaseModel):
    """The body of `POST /v1/feedback`."""

    model_config = ConfigDict(extra="forbid")
    interaction_id: Id
    thumb: Literal["up", "down"]
    text: Words | None = None
    correction: Correction | None = None
    reasons: Annotated[list[Reason], Field(max_length=8)] = []


def router(
    store: Store, mask: Callable[[str], str], tell: Callable[[dict[str, Any]], None] = lambda entry: None
) -> APIRouter:
    """Return the routes; `mask` takes people's data out of a text, `tell` hears of each new entry."""
    routes = APIRouter()

    @routes.post("/v1/feedback")
    async def give(body: Feedback, http: Request) -> dict[str, Any]:
        caller = caller_of(http)
        about = await found(store, body.interaction_id, caller.tenant)
        entry = _entry(body, caller, about, mask)
        kept, is_new = await store.written(store.do(lambda connection: _say(connection, entry)))
        if is_new:
            tell(_shown(kept))
        return _shown(kept)

    @routes.get("/v1/feedback")
    async def entries(
        interaction_id: Name = None,
        thumb: Literal["up", "down"] | None = None,
        since: Since = None,
        until: Since = None,
        limit: Limit = 50,
        after: After = None,
    ) -> dict[str, Any]:
        columns = FEEDBACK.c
        same = {"interaction_id": interaction_id, "thumb": thumb}
        where = [columns[name] == value for name, value in same.items() if value is not None]
        where += [columns.at >= since] if since is not None else []
        where += [columns.at < until] if until is not None else []
        rows, following = await page(store, FEEDBACK, where, newest_first(FEEDBACK), limit, after)
        return {"data": [_shown(row) | {"counts": row["counts"]} for row in rows], "next": following}

    return routes


def export(store: Store, since: float = 0.0) -> Iterator[Record]:
    """Yield the corrected answers that count, oldest first, as records; those whose texts are gone are left out.

    The completion is the correction, and `rejected` the reply that was corrected. What is one conversation for the
    splits is told by the caller's messages.
    """
    joined = FEEDBACK.join(INTERACTIONS, FEEDBACK.c.interaction == INTERACTIONS.c.key)
    asked = (INTERACTIONS.c.messages, INTERACTIONS.c.reply, INTERACTIONS.c.bundle, INTERACTIONS.c.run)
    query = select(FEEDBACK, *asked).select_from(joined).order_by(FEEDBACK.c.at, FEEDBACK.c.key).limit(PAGE)
    query = query.where(FEEDBACK.c.counts, FEEDBACK.c.correction.is_not(None), INTERACTIONS.c.messages.is_not(None))
    place = (since, "")
    while rows := store.read_now(query.where(_after(place))):
        yield from map(_record, rows)
        place = (rows[-1]["at"], rows[-1]["key"])


def _after(place: tuple[float, str]) -> Any:
    at, key = place
    return (FEEDBACK.c.at > at) | and_(FEEDBACK.c.at == at, FEEDBACK.c.key > key)


def _record(row: RowMapping) -> Record:
    messages = [Message.model_validate(message) for message in json.loads(row["messages"])]
    origin = {name: row[name] for name in ("interaction_id", "version", "bundle", "run", "tenant")}
    return Record(
        id=f"feedback-{row['key']}",
        messages=[*messages, Message(role="assistant", content=row["correction"])],
        rejected=row["reply"] if row["reply"] and row["reply"] != row["correction"] else None,
        key=f"feedback-{hashlib.sha256(row['messages'].encode()).hexdigest()[:32]}",
        time=datetime.fromtimestamp(row["at"], UTC).isoformat(),
        source="feedback",
        origin=origin,
    )


def _entry(body: Feedback, caller: Caller, about: RowMapping, mask: Callable[[str], str]) -> dict[str, Any]:
    def clean(text: str | None) -> str | None:
        return None if text is None else plain(mask(text))

    return {
        "key": uuid.uuid4().hex,
        "at": time.time(),
        "interaction_id": body.interaction_id,
        "interaction": about["key"],
        "caller": caller.id,
        "tenant": caller.tenant,
        "version": about["version"],
        "thumb": body.thumb,
        "text": clean(body.text),
        "correction": clean(body.correction),
        "reasons": as_text([clean(reason) for reason in body.reasons]),
        "counts": True,
    }


def _say(connection: Connection, entry: dict[str, Any]) -> tuple[Any, bool]:
    """Return the entry that counts now, and whether it is new: the same said again is one entry."""
    columns = FEEDBACK.c
    mine = (columns.interaction == entry["interaction"], columns.caller == entry["caller"], columns.counts)
    last = connection.execute(select(FEEDBACK).where(*mine)).mappings().first()
    if last is not None and all(last[name] == entry[name] for name in SAID):
        return last, False
    connection.execute(update(FEEDBACK).where(*mine).values(counts=False))
    connection.execute(FEEDBACK.insert(), entry)
    return entry, True


def _shown(row: Any) -> dict[str, Any]:
    names = ("interaction_id", "at", "caller", "tenant", "version", "thumb", "text", "correction")
    return {"id": row["key"], **{name: row[name] for name in names}, "reasons": json.loads(row["reasons"] or "[]")}
