from __future__ import annotations

import asyncio
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from forgeline.config.schema.serve.limits import Limits as Settings
from forgeline.errors import ServingError
from forgeline.serving.engines import Usage
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.limits import Limits, Spend, set_budget, spend
from forgeline.serving.gateway.limits.allowances import period_end, period_start
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store

ANN = Caller("ann", "shop", frozenset({"caller"}))
SETTINGS = Settings.model_validate(
    {"prices": {"prompt": 1.0, "completion": 2.0, "currency": "EUR"}, "max_wait": 20, "concurrency": 100}
)
MOST = 2.1  # of 100 tokens read and 1000 written


def limits(store: Store, told: list[Caller] | None = None) -> Limits:
    return Limits(SETTINGS, store, CollectorRegistry(), (told if told is not None else []).append)


def spent(store: Store) -> float:
    store.do(lambda connection: None).result()  # what was posted before is written
    return spend(store, "ann")[0].spent


async def stream(gate: Limits, gone_on: asyncio.Event, used: Usage | None) -> None:
    async with gate.admitted(ANN, 100, 1000) as admission:
        try:
            await gone_on.wait()
        finally:
            await admission.settle(used)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_64_streams_never_overspend_a_budget_for_10(
    database: str, request: pytest.FixtureRequest, opened: Callable[[str], Store]
) -> None:
    address = request.getfixturevalue(database)
    gateways = [opened(address), opened(address)]
    set_budget(gateways[0], "ann", 10 * MOST + 1, "total")
    told: list[Caller] = []

    async def scene() -> None:
        gates = [limits(store, told) for store in gateways]
        gone_on = asyncio.Event()
        streams = [asyncio.create_task(stream(gates[n % 2], gone_on, Usage(100, 500))) for n in range(64)]
        while sum(task.done() for task in streams) < 54:
            await asyncio.sleep(0.01)
        faults = [task.exception() for task in streams if task.done()]
        assert {getattr(fault, "code", fault) for fault in faults} == {"insufficient_quota"}
        assert spent(gateways[0]) == pytest.approx(10 * MOST)
        gone_on.set()
        await asyncio.wait(streams)
        assert sum(task.exception() is None for task in streams) == 10

    asyncio.run(scene())
    assert [caller.id for caller in told] == ["ann", "ann"]  # each gateway says it once
    for store in gateways:
        store.do(lambda connection: None).result()
    assert spent(gateways[1]) == pytest.approx(10 * 1.1)


def test_what_was_used_is_paid_however_a_stream_ends(store: Store) -> None:
    set_budget(store, "ann", 5, "month")

    async def scene() -> None:
        never, gate = asyncio.Event(), limits(store)
        cut = asyncio.create_task(stream(gate, never, Usage(100, 200)))
        while not gate._turns._running:
            await asyncio.sleep(0.01)
        cut.cancel()
        await asyncio.wait([cut])
        assert spent(store) == pytest.approx(0.5)
        with pytest.raises(RuntimeError, match="broke"):
            async with gate.admitted(ANN, 100, 1000) as admission:
                await admission.settle(None)
                raise RuntimeError("the engine broke before the first token")
        assert spent(store) == pytest.approx(0.5)
        async with gate.admitted(ANN, 100, 1000) as admission:
            for _ in range(2):  # the first counts; more than was reserved is counted too
                await admission.settle(Usage(300, 1000))
        assert spent(store) == pytest.approx(0.5 + 2.3)
        with pytest.raises(ApiError, match=r"What is left of this key's budget \(for a month\)") as refused:
            async with gate.admitted(ANN, 300, 1000):
                pass
        left = period_end("month", time.time()) - time.time()
        assert int((refused.value.headers or {})["Retry-After"]) == pytest.approx(left, abs=5)
        async with gate.admitted(ANN, 100, 1000):
            pass  # left without having settled: counted in full
        assert spent(store) == pytest.approx(2.8 + MOST)

    asyncio.run(scene())


def test_a_gateway_that_was_killed_leaves_its_reservations_spent(opened: Callable[[str], Store], sqlite: str) -> None:
    store = opened(sqlite)
    set_budget(store, "ann", 2 * MOST, "total")
    script = f"""
import asyncio, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_budgets import ANN, Store, limits
store = Store({sqlite!r})
store.open()
async def scene():
    async with limits(store).admitted(ANN, 100, 1000):
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(scene())
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert spent(store) == pytest.approx(MOST)

    async def scene() -> None:
        gate, gone_on = limits(store), asyncio.Event()
        streams = [asyncio.create_task(stream(gate, gone_on, Usage(100, 0))) for _ in range(4)]
        while sum(task.done() for task in streams) < 3:
            await asyncio.sleep(0.01)
        gone_on.set()
        await asyncio.wait(streams)
        assert sum(task.exception() is None for task in streams) == 1

    asyncio.run(scene())


def test_a_locked_database_is_waited_for_and_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    set_budget(store, "ann", 100, "day")
    hasty = SETTINGS.model_copy(update={"max_wait": 0.5})

    async def scene() -> None:
        gate = Limits(hasty, store, CollectorRegistry())
        lock = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(ApiError, match="cannot be read now") as late:
            async with gate.admitted(ANN, 100, 1000):
                pass
        assert (late.value.status_code, late.value.code) == (503, "budget_unavailable")
        waiting = asyncio.create_task(stream(gate, asyncio.Event(), None))
        await asyncio.sleep(0.1)
        async with gate.admitted(Caller("bob", "shop", frozenset()), 100, 1000):
            pass  # who has no budget does not notice
        lock.execute("COMMIT")
        lock.close()
        while not gate._turns._running:
            await asyncio.sleep(0.01)
        assert spent(store) == pytest.approx(MOST)  # of the one that runs; the one that gave up has it back
        waiting.cancel()
        await asyncio.wait([waiting])
        assert spent(store) == 0

    asyncio.run(scene())


def test_a_new_period_begins_at_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    tomorrow = period_end("day", now) + 60
    set_budget(store, "ann", MOST, "day")

    async def scene() -> None:
        gate = limits(store)
        async with gate.admitted(ANN, 100, 1000) as yesterdays:
            monkeypatch.setattr(time, "time", lambda: tomorrow)
            assert spent(store) == 0
            async with gate.admitted(ANN, 100, 1000):
                await yesterdays.settle(Usage(100, 0))
                assert spent(store) == pytest.approx(MOST)  # what yesterday gives back is yesterday's

    asyncio.run(scene())


def test_budgets_are_set_changed_and_listed(store: Store) -> None:
    set_budget(store, "ann", 5)
    set_budget(store, "bob", 1.5, "total")

    async def scene() -> None:
        async with limits(store).admitted(ANN, 0, 500) as admission:
            await admission.settle(Usage(0, 500))

    asyncio.run(scene())
    set_budget(store, "ann", 7.25)  # what is spent stays
    month = period_start("month", time.time())
    assert spend(store) == [Spend("ann", 7.25, "month", month, 1.0), Spend("bob", 1.5, "total", 0.0, 0.0)]
    set_budget(store, "ann", 7.25, "day")
    assert spend(store, "ann")[0].spent == 0
    set_budget(store, "ann", None)
    assert spend(store, "ann") == []
    for amount in (-1, math.nan, math.inf, 1e12):
        with pytest.raises(ServingError, match="A budget is between 0 and 1,000,000,000"):
            set_budget(store, "ann", amount)
