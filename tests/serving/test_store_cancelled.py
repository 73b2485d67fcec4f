from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from sqlalchemy import select, text

from forgeline.serving.gateway.store import Store


def test_who_stops_waiting_for_a_write_does_not_stop_the_writes(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'gateway.db'}")
    store.open()

    async def scene() -> None:
        await store.write(text("CREATE TABLE kept (n INTEGER)"))
        lock = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.write(text("INSERT INTO kept VALUES (1)")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        lock.execute("COMMIT")
        lock.close()
        async with asyncio.timeout(10):
            await store.write(text("INSERT INTO kept VALUES (2)"))
        assert [row["n"] for row in await store.read(select(text("n FROM kept")))] == [1, 2]

    asyncio.run(scene())
    store.close()
