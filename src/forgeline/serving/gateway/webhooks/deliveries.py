"""Events for other systems: signed, kept until they are delivered, tried again, and at last given up and listed.

Deliveries are signed as https://www.standardwebhooks.com says. One may come twice: `webhook-id` tells.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import math
import random
import ssl
import time
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Integer,
    RowMapping,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from forgeline.config.schema.serve.people import Webhooks as Settings
from forgeline.serving.gateway.store import METADATA, Store, StoreFailed
from forgeline.serving.gateway.webhooks.reach import Unreachable, addresses_of

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger("forgeline.gateway")
Event = Literal[
    "interaction.flagged",
    "review.requested",
    "review.decided",
    "feedback.received",
    "batch.finished",
    "budget.exhausted",
    "engine.down",
    "engine.up",
    "rollout.ended",
]
State = Literal["waiting", "delivered", "dead"]
IDLE_SECONDS = 5.0  # how long deliveries of a gateway that died, or of a retry, may be overlooked
HOUR, DAY = 3600.0, 86400.0
WEBHOOKS = Table(
    "webhooks",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("url", String, nullable=False),
    Column("events", JSON, nullable=False),
    Column("secret", String, nullable=False),
    Column("at", Float, nullable=False),
)
DELIVERIES = Table(
    "webhook_deliveries",
    METADATA,
    Column("id", String, primary_key=True),
    Column("webhook", String, nullable=False, index=True),
    Column("event", String, nullable=False),
    Column("body", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("tries", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),
    Column("fault", String),
)
ROW = DELIVERIES.c


def signature(secret: str, id_: str, timestamp: int, body: str) -> str:
    """Return the `webhook-signature` of a delivery."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id_}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


class Webhooks:
    """The subscriptions of all tenants, and a task that delivers to them, to each one thing at a time."""

    def __init__(self, settings: Settings, store: Store, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.store = store
        self._deliveries = Counter("forgeline_webhook_tries", "Deliveries tried.", ["outcome"], registry=registry)
        self._due = asyncio.Event()
        self._calls: dict[str, asyncio.Task[None]] = {}  # by webhook
        self._loop: asyncio.AbstractEventLoop | None = None
        self._swept = -math.inf

    async def start(self) -> None:
        """Begin to deliver, with what an earlier process left."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; what waits is delivered after the next start."""
        self._loop = None
        self._task.cancel()
        await asyncio.wait([self._task])

    def send(self, event: Event, payload: dict[str, Any], tenant: str | None = None) -> None:
        """Queue an event for a tenant's subscriptions, or for everybody's; returns at once, from any thread."""

        def written(done: Future[None]) -> None:
            if fault := done.exception():
                logger.error("the event %s is lost: %s", event, fault)
            self.wake()

        try:
            done = self.store.do(lambda connection: self.queue(connection, event, payload, tenant))
            done.add_done_callback(written)
        except StoreFailed as fault:
            logger.error("the event %s is lost: %s", event, fault)

    def queue(self, connection: Connection, event: Event, payload: dict[str, Any], tenant: str | None = None) -> None:
        """Queue an event in a transaction, so that it is told if and only if that is committed; `wake` then."""
        now = time.time()
        moment = datetime.fromtimestamp(now, UTC).isoformat()
        body = json.dumps({"type": event, "timestamp": moment, "data": payload}, ensure_ascii=False)
        query = select(WEBHOOKS) if tenant is None else select(WEBHOOKS).where(WEBHOOKS.c.tenant == tenant)
        hooks = [hook["id"] for hook in connection.execute(query).mappings() if event in hook["events"]]
        what = {"event": event, "body": body, "at": now, "state": "waiting", "tries": 0, "next_at": now}
        if hooks:
            rows = [{"id": f"msg_{uuid4().hex}", "webhook": hook, **what} for hook in hooks]
            connection.execute(insert(DELIVERIES), rows)

    def wake(self) -> None:
        """Look for deliveries that are due, now."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._due.set)

    async def _work(self) -> None:
        import httpx2

        tls = ssl.create_default_context()  # trusts what the system trusts, an operator's own authority too
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with (
            httpx2.AsyncClient(verify=tls, trust_env=False, timeout=None, limits=limits) as client,
            asyncio.TaskGroup() as calls,
        ):
            while True:
                self._due.clear()
                try:
                    for row in await asyncio.wrap_future(self.store.do(self._claim)):
                        self._calls[row["webhook"]] = calls.create_task(self._deliver(client, row))
                    pause = await self._pause()
                except (SQLAlchemyError, StoreFailed) as fault:
                    logger.warning("webhooks wait for the gateway's database (%s)", fault)
                    pause = IDLE_SECONDS
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._due.wait()

    def _claim(self, connection: Connection) -> list[RowMapping]:
        """Return one due delivery of each subscription, which no other gateway tries before this one gave up."""
        now = time.time()
        if time.monotonic() - self._swept > HOUR:
            over = now - self.settings.keep * DAY
            connection.execute(delete(DELIVERIES).where(ROW.state != "waiting", ROW.at < over))
            self._swept = time.monotonic()
        due = (ROW.state == "waiting", ROW.next_at <= now, ROW.webhook.not_in(list(self._calls)))
        heads = select(ROW.webhook).where(*due).group_by(ROW.webhook).order_by(func.min(ROW.next_at))
        claimed = []
        for hook in connection.execute(heads.limit(self.settings.concurrency - len(self._calls))).scalars().all():
            first = select(DELIVERIES).where(*due, ROW.webhook == hook).order_by(ROW.next_at).limit(1)
            row = connection.execute(first).mappings().one()
            mine = update(DELIVERIES).where(ROW.id == row["id"], ROW.next_at == row["next_at"])
            if connection.execute(mine.values(next_at=now + 2 * self.settings.timeout)).rowcount:
                claimed.append(row)
        return claimed

    async def _pause(self) -> float:
        """Return the seconds until another delivery is due."""
        if len(self._calls) >= self.settings.concurrency:
            return IDLE_SECONDS
        soonest = select(func.min(ROW.next_at).label("soonest")).where(
            ROW.state == "waiting", ROW.webhook.not_in(list(self._calls))
        )
        at: float | None = (await self.store.read(soonest))[0]["soonest"]
        return IDLE_SECONDS if at is None else min(IDLE_SECONDS, max(0.0, at - time.time()))

    async def _deliver(self, client: httpx2.AsyncClient, row: RowMapping) -> None:
        try:
            fault = await self._call(client, row)
            tries = row["tries"] + 1
            values: dict[str, Any] = {"state": "delivered", "tries": tries, "fault": fault}
            if fault:
                values["state"] = "dead" if tries >= self.settings.tries else "waiting"
                pause = self.settings.backoff * 2 ** (tries - 1) * random.uniform(0.5, 1.5)
                values["next_at"] = time.time() + pause
            await self.store.write(update(DELIVERIES).where(ROW.id == row["id"]).values(values))
            self._deliveries.labels("failed" if values["state"] == "waiting" else values["state"]).inc()
        except Exception:  # it will be delivered again
            logger.exception("what became of the delivery %s is not known", row["id"])
        finally:
            del self._calls[row["webhook"]]
            self._due.set()

    async def _call(self, client: httpx2.AsyncClient, row: RowMapping) -> str | None:
        """Return what went wrong, if anything did."""
        import httpx2

        hooks = await self.store.read(select(WEBHOOKS).where(WEBHOOKS.c.id == row["webhook"]))
        if not hooks:
            return "The subscription was deleted."
        url, now = httpx2.URL(hooks[0]["url"]), int(time.time())
        headers = {
            "content-type": "application/json",
            "host": url.netloc.decode(),
            "webhook-id": row["id"],
            "webhook-timestamp": str(now),
            "webhook-signature": signature(hooks[0]["secret"], row["id"], now, row["body"]),
        }
        try:
            async with asyncio.timeout(self.settings.timeout):
                status = await self._post(client, url, row["body"].encode(), headers)
        except TimeoutError:
            return f"It did not answer in {self.settings.timeout:g} s."
        except (Unreachable, httpx2.HTTPError, httpx2.InvalidURL) as fault:
            return str(fault) or repr(fault)
        return None if 200 <= status < 300 else f"It answered {status}."

    async def _post(self, client: httpx2.AsyncClient, url: httpx2.URL, body: bytes, headers: dict[str, str]) -> int:
        """Return the status that the first of the host's addresses to be reached answers."""
        import httpx2

        addresses = await addresses_of(url, self.settings.networks)
        while True:
            there = url.copy_with(host=str(addresses.pop(0)))
            named = {"sni_hostname": url.raw_host.decode("ascii")}
            try:
                async with client.stream("POST", there, content=body, headers=headers, extensions=named) as answer:
                    return answer.status_code
            except httpx2.ConnectError:
                if not addresses:
                    raise
