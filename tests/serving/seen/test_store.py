"""What is promised to be kept is kept: whatever the database does."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from notes import NOTES, row
from postgres import Server, running
from scene import wait_for
from sqlalchemy import insert, literal_column, select
from sqlalchemy.exc import DBAPIError

from forgeline.serving.gateway.store import Store, StoreFailed, Written

CHILD = f"""
import asyncio, resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from notes import NOTES, row
from forgeline.serving.gateway.store import Store

async def main(address, limit, close):
    store = Store(address, write_timeout=1)
    store.open()
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(100_000 if not limit else 40):
        await store.keep(NOTES, row(f"child-{{number}}", "x" * (20 if not limit else 20_000)))
        print(f"child-{{number}}", flush=True)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if close:
        store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), True))
"""


def keys(store: Store) -> set[str]:
    return {str(found["key"]) for found in store.read_now(select(NOTES.c.key))}


def address(folder: Path) -> str:
    return f"sqlite:///{folder}/gateway.db"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(address(tmp_path), write_timeout=1)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as postgresql:
        yield postgresql


def lock(folder: Path) -> sqlite3.Connection:
    other = sqlite3.connect(folder / "gateway.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_writes_of_many_are_in_order_and_quick(store: Store) -> None:
    rates = []
    for first in range(0, 9000, 3000):
        began = time.perf_counter()
        posted = [store.post(insert(NOTES), row(f"{number:05}")) for number in range(first, first + 3000)]
        assert posted[-1].result(30) == 1
        rates.append(3000 / (time.perf_counter() - began))
    found = store.read_now(select(NOTES.c.key).order_by(literal_column("rowid")))
    assert [each["key"] for each in found] == [f"{number:05}" for number in range(9000)]
    assert max(rates) > 2000, f"{rates} writes/s"


def test_a_poisoned_write_does_not_lose_its_neighbours(store: Store) -> None:
    def broken(_: object) -> None:
        raise ValueError("broken")

    good = [store.post(insert(NOTES), row(f"before-{n}")) for n in range(3)]
    bad: list[Written] = [store.do(broken), store.post(insert(NOTES), row("before-0"))]
    bad.append(store.do(lambda connection: connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")))
    good += [store.post(insert(NOTES), row(f"after-{n}")) for n in range(3)]
    assert [done.result(10) for done in good] == [1] * 6
    assert isinstance(bad[0].exception(10), ValueError)
    assert [isinstance(done.exception(10), DBAPIError) for done in bad[1:]] == [True, True]
    assert len(keys(store)) == 6 and store.behind_since is None


def test_while_the_database_is_locked_rows_are_kept_beside_it_and_come_home(store: Store, tmp_path: Path) -> None:
    async def keep(*names: str) -> None:
        for name in names:
            await store.keep(NOTES, row(name))

    other = lock(tmp_path)
    waiting = store.post(insert(NOTES), row("posted"))
    asyncio.run(keep("first", "second"))
    assert store.behind_since is not None and store.spooled == 2
    with pytest.raises(StoreFailed, match="took no write for 1 s"):
        asyncio.run(store.write(insert(NOTES), row("withdrawn")))
    assert keys(store) == set()  # reads go on
    other.execute("COMMIT")
    assert waiting.result(5) == 1
    wait_for(lambda: store.spooled == 0 and store.behind_since is None, 5)
    assert keys(store) == {"posted", "first", "second"}
    assert not list(tmp_path.glob("*spool*"))


def test_the_event_loop_goes_on_while_the_database_is_locked(store: Store, tmp_path: Path) -> None:
    async def longest_pause() -> float:
        async def tick() -> float:
            longest = 0.0
            for _ in range(60):
                began = time.perf_counter()
                await asyncio.sleep(0.01)
                longest = max(longest, time.perf_counter() - began)
            return longest

        writes = [store.keep(NOTES, row(f"row-{n}")) for n in range(20)]
        reads = [store.read(select(NOTES)) for _ in range(20)]
        return (await asyncio.gather(tick(), *writes, *reads))[0]  # type: ignore[no-any-return]

    other = lock(tmp_path)
    assert asyncio.run(longest_pause()) < 0.3
    other.close()
    wait_for(lambda: len(keys(store)) == 20, 5)


def test_who_gives_up_waiting_loses_no_write(store: Store, tmp_path: Path) -> None:
    async def give_up() -> None:
        waits = [asyncio.ensure_future(each) for each in (store.keep(NOTES, row("kept")), store.written(posted))]
        await asyncio.sleep(0.05)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    other = lock(tmp_path)
    posted = store.post(insert(NOTES), row("posted"))
    asyncio.run(give_up())
    other.close()
    assert posted.result(5) == 1
    wait_for(lambda: keys(store) == {"posted", "kept"}, 5)


def test_as_many_wait_as_may(tmp_path: Path) -> None:
    store = Store(address(tmp_path), pending=5, write_timeout=1)
    store.open()
    other = lock(tmp_path)
    first = store.post(insert(NOTES), row("in hand"))
    wait_for(lambda: store.depth == 0, 5)
    held = [store.post(insert(NOTES), row(f"held-{n}")) for n in range(5)]
    with pytest.raises(StoreFailed, match="does not keep up"):
        store.post(insert(NOTES), row("too many"))
    other.close()
    store.close()
    assert [done.result(0) for done in (first, *held)] == [1] * 6


def test_a_gateway_that_closes_while_locked_leaves_kept_rows_to_the_next(tmp_path: Path) -> None:
    store = Store(address(tmp_path), write_timeout=0.5)
    store.open()
    other = lock(tmp_path)
    asyncio.run(store.keep(NOTES, row("promised")))
    lost = store.post(insert(NOTES), row("not promised"))
    store.close()
    assert isinstance(lost.exception(0), StoreFailed)
    with next(tmp_path.glob("*.jsonl")).open("a") as file:
        file.write('["nowhere", {"key": "x"}]\n["notes", {"key": "cut')  # what the database refuses; what a kill cut
    other.close()
    with_next = Store(address(tmp_path))
    with_next.open()
    wait_for(lambda: with_next.spooled == 0, 5)
    assert keys(with_next) == {"promised"}
    assert "nowhere" in next(tmp_path.glob("*.refused")).read_text()
    with_next.close()


def run_child(folder: Path, limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, address(folder), str(limit)]
    path = os.pathsep.join(sys.path)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    child = run_child(tmp_path, limit=0)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(200)]
    other = lock(tmp_path)  # and some that went into the spool
    acknowledged += [child.stdout.readline().strip() for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in child.stdout.read().splitlines()]
    child.wait()
    other.close()
    store = Store(address(tmp_path))
    store.open()
    wait_for(lambda: store.spooled == 0, 5)
    assert set(acknowledged) <= keys(store)
    store.close()


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    child = run_child(tmp_path, limit=400_000)  # neither the database nor the file beside it holds them all
    acknowledged = (child.communicate(timeout=60)[0]).split()
    assert child.returncode == 0 and len(acknowledged) == 40
    store = Store(address(tmp_path))
    store.open()
    wait_for(lambda: store.spooled == 0, 5)
    assert keys(store) == set(acknowledged)
    store.close()


def test_an_address_that_is_none_is_a_sentence_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match=r"nonsense://me:\*\*\*@host is not the address"):
        Store("nonsense://me:hunter2@host")
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed, match=r"cannot be opened .* see serve\.store"):
        Store(f"sqlite:///{tmp_path}/file/gateway.db").open()


def test_postgresql_goes_away_and_comes_back(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSWORD", server.password)
    store = Store(server.address.replace(server.password, "${env:PASSWORD}"), write_timeout=2)
    store.open()
    asyncio.run(store.keep(NOTES, row("before")))
    with pytest.raises(DBAPIError):
        asyncio.run(store.write(insert(NOTES), row("before")))
    server.stop()
    asyncio.run(store.keep(NOTES, row("meanwhile")))
    posted = store.post(insert(NOTES), row("posted"))
    with pytest.raises(StoreFailed, match="does not answer"):
        store.read_now(select(NOTES))
    server.start()
    assert posted.result(10) == 1
    wait_for(lambda: store.spooled == 0, 5)
    assert keys(store) == {"before", "meanwhile", "posted"}
    store.close()
