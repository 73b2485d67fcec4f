"""What is kept of people's words goes: when it is old, and when somebody asks."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from sqlalchemy import ColumnElement, Table, and_, delete, or_, select, update

from forgeline.serving.gateway.feedback import FEEDBACK
from forgeline.serving.gateway.interactions import INTERACTIONS
from forgeline.serving.gateway.reviews import EVENTS, REVIEWS
from forgeline.serving.gateway.store import Store, StoreFailed

logger = logging.getLogger("forgeline.gateway")
# The columns that hold words; a table's others say who, when and what, and stay when the words are forgotten.
TEXTS = {
    INTERACTIONS: ("messages", "reply", "facts"),
    FEEDBACK: ("text", "correction", "reasons"),
    REVIEWS: ("messages", "reply", "final", "reason"),
    EVENTS: ("why",),
}
BATCH = 500  # rows to a transaction, so that requests need not wait for it
PAUSE_SECONDS = 0.05
SWEEP_SECONDS = 3600.0


async def sweep(store: Store, days: float) -> int:
    """Delete rows that are older than so many days, and return how many; raise StoreFailed if it cannot go on."""
    cutoff = time.time() - days * 86400
    gone = 0
    for table in TEXTS:
        while keys := await _keys(store, table, table.c.at < cutoff):
            gone += await store.write(delete(table).where(table.c.key.in_(keys)))
            await asyncio.sleep(PAUSE_SECONDS)
    return gone


async def keep_swept(store: Store, days: float) -> None:
    """Sweep once an hour until cancelled."""
    while True:
        try:
            if gone := await sweep(store, days):
                logger.info("%d rows older than seen.keep_days are deleted", gone)
        except StoreFailed as fault:
            logger.warning("rows older than seen.keep_days are not all deleted yet: %s", fault)
        await asyncio.sleep(SWEEP_SECONDS)


async def forget(
    store: Store, value: str | None = None, caller: str | None = None, tenant: str | None = None
) -> dict[str, int]:
    """Delete the texts that hold a value, in any case of its letters, or are a caller's or a tenant's.

    Returns:
        In how many rows of each table.

    Raises:
        StoreFailed: if rows wait for the database, which would be missed, or it takes no writes.
    """
    if store.behind_since is not None or store.spooled:
        raise StoreFailed("Rows wait for the gateway's database: ask again to forget once they are in it.")
    return {table.name: await _forget(store, table, _meant(table, value, caller, tenant)) for table in TEXTS}


async def _forget(store: Store, table: Table, meant: ColumnElement[bool]) -> int:
    forgotten = 0
    empty = dict.fromkeys(TEXTS[table])
    there = or_(*(table.c[name].is_not(None) for name in TEXTS[table]))
    while keys := await _keys(store, table, and_(there, meant)):
        forgotten += await store.write(update(table).where(table.c.key.in_(keys)).values(empty))
        await asyncio.sleep(PAUSE_SECONDS)
    return forgotten


def _meant(table: Table, value: str | None, caller: str | None, tenant: str | None) -> ColumnElement[bool]:
    if value is not None:
        # In JSON, quotes and line ends look different.
        forms = {value, json.dumps(value, ensure_ascii=False)[1:-1]}
        columns = [table.c[name] for name in TEXTS[table]]
        return or_(*(column.icontains(form, autoescape=True) for column in columns for form in forms))
    if table is EVENTS:
        theirs = _meant(REVIEWS, None, caller, tenant)
        return EVENTS.c.review.in_(select(REVIEWS.c.key).where(theirs))
    return table.c.caller == caller if caller is not None else table.c.tenant == tenant


async def _keys(store: Store, table: Table, where: ColumnElement[bool]) -> list[str]:
    return [str(row["key"]) for row in await store.read(select(table.c.key).where(where).limit(BATCH))]
