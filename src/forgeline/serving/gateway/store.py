"""The gateway's database, SQLite or PostgreSQL: every write goes through one thread, many to a transaction."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Executable, RowMapping, Table
from sqlalchemy.exc import DBAPIError

from forgeline.serving.gateway.database import METADATA, StoreFailed, begin, connect, insert_new, passes, prepare
from forgeline.serving.gateway.spool import Spool

logger = logging.getLogger("forgeline.gateway")
Work = Callable[[Connection], Any]
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Any]
GROUP = 256  # writes to a transaction
RETRY_SECONDS = 0.2
SLOW_SECONDS = 1.0  # a group that takes longer is behind
READERS = 4
__all__ = ["METADATA", "Store", "StoreFailed"]


class Written(Future[Any]):
    """What will become of a write. Whoever waits may give up: the write is done all the same, unless withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.withdrawn = False
        self.set_running_or_notify_cancel()


@dataclass(frozen=True)
class _Write:
    work: Work | None
    done: Written
    table: Table | None = None
    row: Mapping[str, Any] = field(default_factory=dict)  # a row of the table, which is spooled rather than lost


class Store:
    """A database; `${env:NAME}` in its address stands for an environment variable.

    What is written is written in order, once (a write whose connection broke during the commit may be there twice; a
    kept row never is). While the database is locked, full or away, up to `pending` writes wait for it in memory. SQLite
    keeps what is committed when the process is killed; a power cut may take the last moments with it.
    """

    def __init__(self, address: str, pending: int = 10_000, write_timeout: float = 5.0) -> None:
        self._write_timeout = write_timeout
        self._engine = connect(address, write_timeout)
        self._pending: queue.Queue[_Write | None] = queue.Queue(pending)
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._readers = ThreadPoolExecutor(READERS, "store-reader")
        self._began: float | None = None  # when what is now being written was first tried
        self._failing = False
        self._give_up = float("inf")

    def open(self) -> None:
        """Create what tables are missing, read back what was spooled, and begin to write.

        Raises:
            StoreFailed: if the database cannot be reached.
        """
        try:
            self._spool = Spool(prepare(self._engine, self._write_timeout))
        except (DBAPIError, OSError) as fault:
            why = fault.orig if isinstance(fault, DBAPIError) else fault
            raise StoreFailed(f"The gateway's database cannot be opened ({why}): see serve.store.") from fault
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and let go of the database; kept rows that it does not take in time are spooled."""
        self._give_up = time.monotonic() + self._write_timeout
        self._pending.put(None)
        self._thread.join()
        self._spool.take()
        self._readers.shutdown()
        self._engine.dispose()

    @property
    def depth(self) -> int:
        """How many writes wait in memory."""
        return self._pending.qsize()

    @property
    def spooled(self) -> int:
        """How many rows wait in the file beside the database."""
        return self._spool.rows

    @property
    def behind_since(self) -> float | None:
        """Since when, in monotonic seconds, the database does not take writes."""
        began = self._began
        return began if began and (self._failing or time.monotonic() - began > SLOW_SECONDS) else None

    def do(self, work: Work) -> Written:
        """Queue work that gets the connection; the future has what it returned once that is committed.

        Raises:
            StoreFailed: if as many writes wait as may.
        """
        return self._queue(_Write(work, Written()))

    def post(self, statement: Executable, rows: Rows = ()) -> Written:
        """Queue a statement, once for each row."""
        counted = {"preserve_rowcount": True}
        return self.do(
            lambda connection: connection.execute(statement, rows or None, execution_options=counted).rowcount
        )

    async def write(self, statement: Executable, rows: Rows = ()) -> int:
        """Return how many rows a statement touched, once that is committed.

        Raises:
            StoreFailed: if it was not written within the store's `write_timeout`; it is withdrawn then.
        """
        return int(await self.written(self.post(statement, rows)))

    async def written(self, done: Written) -> Any:
        """Return what queued work returned; raise StoreFailed, and withdraw it, after the store's `write_timeout`."""
        try:
            async with asyncio.timeout(self._write_timeout):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            done.withdrawn = True
            raise StoreFailed(f"The gateway's database took no write for {self._write_timeout:g} s.") from None

    async def keep(self, table: Table, row: Mapping[str, Any]) -> None:
        """Return once a row is in the database or, while that takes no writes, in a file beside it.

        If the file takes none either, the row waits in memory. A row that is there already stays as it is.

        Raises:
            StoreFailed: if as many writes wait in memory as may.
        """
        item = _Write(None, Written(), table, row)
        if self.behind_since is None:
            with suppress(StoreFailed):
                wrapped = asyncio.wrap_future(self._queue(item))
                await asyncio.wait((wrapped,), timeout=SLOW_SECONDS)
                if wrapped.done() and wrapped.exception() is None:
                    return
                item.done.withdrawn = True
                wrapped.cancel()
        try:
            await asyncio.to_thread(self._spool.append, table.name, row)
        except OSError as fault:
            logger.error("neither the gateway's database nor the file beside it takes a row (%s)", fault)
            self._queue(_Write(None, Written(), table, row))

    async def read(self, statement: Executable) -> list[RowMapping]:
        """Return what a query finds; raise StoreFailed if the database cannot be asked."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, statement)

    def read_now(self, statement: Executable) -> list[RowMapping]:
        """Return what a query finds, in the caller's thread."""
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(statement).mappings())
        except DBAPIError as fault:
            raise StoreFailed(f"The gateway's database does not answer ({fault.orig}).") from fault

    def _queue(self, item: _Write) -> Written:
        try:
            self._pending.put_nowait(item)
        except queue.Full:
            raise StoreFailed("The gateway's database does not keep up.") from None
        return item.done

    def _work(self) -> None:
        open_ = True
        while open_:
            if self._spool.rows and time.monotonic() < self._give_up:
                self._read_back()
            group: list[_Write | None] = []
            if self._failing:  # find out whether it takes writes again, even if nobody writes
                group.append(_Write(lambda _: None, Written()))
            with suppress(queue.Empty):
                group.append(self._pending.get(timeout=RETRY_SECONDS if self._spool.rows or self._failing else None))
                while len(group) < GROUP:
                    group.append(self._pending.get_nowait())
            open_ = None not in group
            self._write([item for item in group if item is not None])
        if self._spool.rows and not self._failing:
            self._read_back()

    def _write(self, group: list[_Write]) -> None:
        while group := [item for item in group if not item.done.withdrawn]:
            if self._failing and time.monotonic() > self._give_up:
                self._abandon(group)
                return
            self._began = self._began or time.monotonic()
            try:
                with self._engine.begin() as connection:
                    begin(connection)
                    results = _results(connection, group)
            except Exception as fault:
                if passes(fault):
                    self._fall_behind(fault)
                    time.sleep(RETRY_SECONDS)
                elif len(group) == 1:  # this one is wrong in itself
                    self._began, self._failing = None, False
                    group[0].done.set_exception(fault)
                    return
                else:  # find out which one
                    for item in group:
                        self._write([item])
                    return
            else:
                self._began, self._failing = None, False
                for item, result in zip(group, results, strict=True):
                    item.done.set_result(result)
                return

    def _read_back(self) -> None:
        for path in self._spool.take():
            rows = list(self._spool.read(path))
            self._began = self._began or time.monotonic()
            try:
                with self._engine.begin() as connection:
                    begin(connection)
                    refused = [row for row in rows if not self._is_taken(connection, *row)]
            except DBAPIError as fault:
                self._fall_behind(fault)
                return
            self._began, self._failing = None, False
            self._spool.done(path, len(rows), refused)
            logger.warning("%d spooled rows are in the gateway's database, %d it refused", len(rows), len(refused))

    def _is_taken(self, connection: Connection, table: str, row: Mapping[str, Any]) -> bool:
        try:
            with connection.begin_nested():
                connection.execute(insert_new(connection, METADATA.tables[table], row), row)
        except Exception as fault:
            if passes(fault):
                raise
            return False
        return True

    def _fall_behind(self, fault: Exception) -> None:
        if not self._failing:
            self._failing = True
            logger.warning("the gateway's database does not take writes (%s); they wait", getattr(fault, "orig", fault))

    def _abandon(self, group: list[_Write]) -> None:
        lost = 0
        for item in group:
            try:
                if item.table is not None:
                    self._spool.append(item.table.name, item.row)
                    item.done.set_result(None)
                    continue
            except OSError as fault:
                logger.error("a row could not be kept: %s", fault)
            lost += 1
            item.done.set_exception(StoreFailed("The gateway closed before its database took this write."))
        if lost:
            logger.error("%d writes are lost: the gateway's database took none until it closed", lost)


def _results(connection: Connection, group: list[_Write]) -> list[Any]:
    results: list[Any] = []
    for (table, columns), items in groupby(group, key=lambda item: (item.table, item.row.keys())):
        if table is None:
            results += [item.work(connection) for item in items if item.work is not None]
        else:
            rows = [item.row for item in items]
            connection.execute(insert_new(connection, table, columns), rows)
            results += [None] * len(rows)
    return results
