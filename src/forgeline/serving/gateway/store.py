"""The gateway's database, SQLite or PostgreSQL: every write goes through one thread, many to a transaction."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Executable, MetaData, RowMapping, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from forgeline.errors import ServingError
from forgeline.sources.environment import expand

logger = logging.getLogger("forgeline.gateway")
METADATA = MetaData()  # every room of the gateway adds its tables
Work = Callable[[Connection], Any]
GROUP = 256  # writes to a transaction
RETRY_SECONDS = 0.2


class StoreFailed(ServingError):
    """The database could not be asked."""


class Store:
    """A database; `${env:NAME}` in its address stands for an environment variable.

    What is written is written in order, once. While the database is locked, full or away, up to `pending` writes
    wait for it in memory.
    """

    def __init__(self, address: str, pending: int = 10_000) -> None:
        self._engine = create_engine(expand(address))
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        self._pending: queue.Queue[tuple[Work, Future[Any]] | None] = queue.Queue(pending)
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self.behind_since: float | None = None  # monotonic seconds since when writes wait for the database

    def open(self) -> None:
        """Create what tables are missing, and begin to write.

        Raises:
            StoreFailed: if the database cannot be reached.
        """
        try:
            METADATA.create_all(self._engine)
        except DBAPIError as fault:
            raise StoreFailed(f"The gateway's database cannot be opened ({fault.orig}): see serve.store.") from fault
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self._pending.put(None)
        self._thread.join()
        self._engine.dispose()

    @property
    def depth(self) -> int:
        """How many writes wait."""
        return self._pending.qsize()

    def do(self, work: Work) -> Future[Any]:
        """Queue work that gets the connection; the future has what it returned once that is committed.

        Raises:
            StoreFailed: if as many writes wait as may.
        """
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()  # whoever waits may give up; what is queued is written
        try:
            self._pending.put_nowait((work, done))
        except queue.Full:
            raise StoreFailed("The gateway's database does not keep up.") from None
        return done

    def post(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] = ()) -> Future[Any]:
        """Queue a statement, once for each row."""
        return self.do(lambda connection: connection.execute(statement, rows or None).rowcount)

    async def write(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any] = ()) -> int:
        """Return how many rows a statement touched, once that is committed."""
        return int(await asyncio.wrap_future(self.post(statement, rows)))

    async def read(self, statement: Executable) -> list[RowMapping]:
        """Return what a query finds."""
        return await asyncio.to_thread(self.read_now, statement)

    def read_now(self, statement: Executable) -> list[RowMapping]:
        """Return what a query finds, in the caller's thread."""
        with self._engine.connect() as connection:
            return list(connection.execute(statement).mappings())

    def _work(self) -> None:
        open_ = True
        while open_:
            first = self._pending.get()
            group = [first]
            while len(group) < GROUP and not self._pending.empty():
                group.append(self._pending.get())
            open_ = None not in group
            works = [item for item in group if item is not None]
            if works:
                self._write(works)

    def _write(self, works: list[tuple[Work, Future[Any]]]) -> None:
        while True:
            try:
                with self._engine.begin() as connection:
                    results = [work(connection) for work, _ in works]
                break
            except OperationalError as fault:  # locked, full or away: it may come back
                if self.behind_since is None:
                    self.behind_since = time.monotonic()
                    logger.warning("the gateway's database does not take writes (%s); they wait", fault.orig)
                time.sleep(RETRY_SECONDS)
            except Exception as fault:
                if len(works) == 1:  # this one is wrong in itself
                    works[0][1].set_exception(fault)
                    return
                for work in works:  # find out which one
                    self._write([work])
                return
        self.behind_since = None
        for (_, done), result in zip(works, results, strict=True):
            done.set_result(result)


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA busy_timeout=200")
