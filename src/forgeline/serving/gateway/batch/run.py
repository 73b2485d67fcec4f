"""Batches at work: line by line in the background, each answer kept as it comes, so that nothing is asked twice.

Of each tenant one batch is worked on at a time. A gateway holds a lease on what it works on; when it dies, another
one, or itself after a restart, goes on with the lines that have no answer yet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from forgeline.config.schema.serve.people import Batch as Settings
from forgeline.serving.gateway.batch.lines import Line, stored_lines
from forgeline.serving.gateway.batch.tables import ANSWERS, BATCHES, FILES, UNFINISHED, batch_object
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store, StoreFailed
from forgeline.serving.gateway.webhooks import Webhooks

logger = logging.getLogger("forgeline.gateway")
Answer = Callable[[dict[str, Any], Caller], Awaitable[tuple[int, dict[str, Any]]]]
TENANTS = 8  # worked for at once
HOUR, DAY = 3600.0, 86400.0
LONGEST_PAUSE = 30.0  # seconds before a line that was turned away is tried again
AGAIN = (429, 503)  # what a line is tried again after
ROW = BATCHES.c


@dataclass
class _Work:
    """A batch that this gateway works on, until it is done or to stop."""

    row: RowMapping
    lines: Iterator[tuple[int, Line]] = field(default_factory=lambda: iter(()))
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether no further line is to be asked."""
        return self.stop.is_set() or time.time() > self.row["expires_at"]

    @property
    def caller(self) -> Caller:
        """Whose batch it is."""
        return Caller(self.row["caller"], self.row["tenant"], frozenset(self.row["roles"]))


class Batches:
    """The batches of all tenants, answered by `answer`, which should let requests of people pass."""

    def __init__(
        self, settings: Settings, store: Store, answer: Answer, webhooks: Webhooks, registry: CollectorRegistry
    ) -> None:
        self.settings = settings
        self.store = store
        self._answer = answer
        self.webhooks = webhooks
        self._lines = Counter("forgeline_batch_lines", "Answered lines of batches.", ["outcome"], registry=registry)
        self._working: dict[str, _Work] = {}
        self._due = asyncio.Event()
        self._swept = -math.inf
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def start(self) -> None:
        """Begin to work, with what an earlier process left."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; what is unfinished goes on after the next start."""
        self._task.cancel()
        await asyncio.wait([self._task])
        with suppress(StoreFailed):
            self.store.post(update(BATCHES).where(ROW.id.in_(list(self._working))).values(lease=0.0))

    def wake(self) -> None:
        """Look for new batches and cancellations, now."""
        self._due.set()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._due.clear()
                try:
                    for row in await asyncio.wrap_future(self.store.do(self._claim)):
                        self._working[row["id"]] = _Work(row)
                        tasks.create_task(self._run(self._working[row["id"]]))
                    ids = list(self._working)
                    told = select(ROW.id).where(ROW.id.in_(ids), ROW.status == "cancelling")
                    for row in await self.store.read(told):
                        self._working[row["id"]].stop.set()
                except (SQLAlchemyError, StoreFailed) as fault:
                    logger.warning("batches wait for the gateway's database (%s)", fault)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.lease / 3):
                        await self._due.wait()

    def _claim(self, connection: Connection) -> list[RowMapping]:
        """Renew the leases of this gateway's batches, and return others that it now works on."""
        now = time.time()
        until, working = now + self.settings.lease, list(self._working.values())
        if working:
            mine = update(BATCHES).where(ROW.id.in_([work.row["id"] for work in working]))
            connection.execute(mine.values(lease=until))
        if time.monotonic() - self._swept > HOUR:
            connection.execute(delete(FILES).where(FILES.c.at < now - self.settings.keep * DAY))
            self._swept = time.monotonic()
        waiting = select(BATCHES).where(ROW.status.in_(UNFINISHED), ROW.lease < now).order_by(ROW.at)
        tenants = {work.row["tenant"] for work in working}
        claimed = []
        for row in connection.execute(waiting).mappings():
            if row["tenant"] in tenants or len(tenants) == TENANTS:
                continue
            mine = update(BATCHES).where(ROW.id == row["id"], ROW.lease == row["lease"])
            if connection.execute(mine.values(lease=until)).rowcount:
                tenants.add(row["tenant"])
                claimed.append(row)
        return claimed

    async def _run(self, work: _Work) -> None:
        id_ = work.row["id"]
        try:
            await self._answer_all(work)
        except Exception:
            logger.exception("the batch %s stopped; it goes on when its lease is over", id_)
        del self._working[id_]
        self.wake()

    async def _answer_all(self, work: _Work) -> None:
        id_ = work.row["id"]
        if work.row["status"] == "validating":
            begun = update(BATCHES).where(ROW.id == id_, ROW.status == "validating")
            if not await self.store.write(begun.values(status="in_progress", begun_at=time.time())):
                return  # cancelled before it began
        files = await self.store.read(select(FILES.c.content).where(FILES.c.id == work.row["input"]))
        lines = await asyncio.to_thread(stored_lines, files[0]["content"] if files else b"")
        answered = {row["line"] for row in await self.store.read(_answers(id_).with_only_columns(ANSWERS.c.line))}
        work.lines = ((n, line) for n, line in enumerate(lines) if n not in answered)
        async with asyncio.TaskGroup() as workers:
            for _ in range(self.settings.concurrency):
                workers.create_task(self._answer_lines(work))
        await asyncio.wrap_future(self.store.do(lambda connection: self._finish(connection, work, lines)))
        self.webhooks.wake()

    async def _answer_lines(self, work: _Work) -> None:
        for number, line in work.lines:
            if work.over:
                return
            status, reply = await self._answered(work, line)
            if work.over and status in AGAIN:
                return
            response = {"status_code": status, "request_id": f"{work.row['id']}-{number}", "body": reply}
            ok, text = status == 200, _record(line, response, None)
            with suppress(IntegrityError):  # a gateway that was believed dead answered it as well
                row = {"batch": work.row["id"], "line": number, "ok": ok, "record": text}
                await asyncio.wrap_future(self.store.post(insert(ANSWERS), row))  # however long it takes
            self._lines.labels("completed" if ok else "failed").inc()

    async def _answered(self, work: _Work, line: Line) -> tuple[int, dict[str, Any]]:
        pause = 1.0
        while True:
            async with self._slots:
                try:
                    status, reply = await self._answer(line.body, work.caller)
                except ApiError as refusal:
                    status, reply = refusal.status_code, refusal.body()
                except Exception:
                    logger.exception("a line of the batch %s failed", work.row["id"])
                    status, reply = 500, ApiError(500, "The server failed on this request.", "internal").body()
            spent = (reply.get("error") or {}).get("code") == "insufficient_quota"
            if status not in AGAIN or spent or work.over:
                return status, reply
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await work.stop.wait()
            pause = min(LONGEST_PAUSE, 2 * pause)

    def _finish(self, connection: Connection, work: _Work, lines: list[Line]) -> None:
        """Make the files of a batch and end it, all in one transaction."""
        answers = list(connection.execute(_answers(work.row["id"]).order_by(ANSWERS.c.line)).mappings())
        answered = {answer["line"] for answer in answers}
        missing = [line for number, line in enumerate(lines) if number not in answered]
        status = "cancelled" if work.stop.is_set() else "expired" if missing else "completed"
        good = [answer["record"] for answer in answers if answer["ok"]]
        bad = [answer["record"] for answer in answers if not answer["ok"]]
        bad += [_unanswered(line) for line in missing if status == "expired"]
        ended = {
            "status": status,
            "completed": len(good),
            "failed": len(bad),
            "ended_at": time.time(),
            "output": f"file-{uuid4().hex}" if good else None,
            "errors": f"file-{uuid4().hex}" if bad else None,
        }
        mine = update(BATCHES).where(ROW.id == work.row["id"], ROW.status.in_(UNFINISHED)).values(ended)
        if not connection.execute(mine).rowcount:
            return
        for id_, records, name in ((ended["output"], good, "output"), (ended["errors"], bad, "error")):
            if records:
                content = "".join(f"{record}\n" for record in records).encode()
                made = {"id": id_, "tenant": work.row["tenant"], "name": f"{work.row['id']}_{name}.jsonl"}
                made |= {"purpose": "batch_output", "size": len(content), "lines": len(records), "at": time.time()}
                connection.execute(insert(FILES), {**made, "content": content})
        connection.execute(delete(ANSWERS).where(ANSWERS.c.batch == work.row["id"]))
        told = batch_object({**work.row, **ended}, len(good), len(bad))
        self.webhooks.queue(connection, "batch.finished", told, work.row["tenant"])


def _answers(id_: str) -> Any:
    return select(ANSWERS).where(ANSWERS.c.batch == id_)


def _unanswered(line: Line) -> str:
    message = "The batch's time was over before this request was answered."
    return _record(line, None, {"code": "batch_expired", "message": message})


def _record(line: Line, response: dict[str, Any] | None, error: dict[str, Any] | None) -> str:
    record = {"id": f"batch_req_{uuid4().hex}", "custom_id": line.custom_id, "response": response, "error": error}
    return json.dumps(record, ensure_ascii=False)
