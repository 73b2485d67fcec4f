from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from forgeline.config.schema.serve.limits import Limits as Settings
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.limits import Limits, set_limits
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store


class Scene:
    """Requests that hold their turn until they are told to end; `order` is who got a turn."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.limits = Limits(Settings.model_validate({"max_wait": 20} | settings), store, self.registry)
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str, background: bool = False) -> None:
        """Let requests of `key.number` come one after the other."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._hold(name, background))
            await self.quiet()

    async def quiet(self) -> None:
        """Wait until each request has its turn, waits for it, or was refused."""
        async with asyncio.timeout(20):
            while len(self.order) + self._waiting() + self._refused() != len(self.tasks):
                await asyncio.sleep(0.001)

    def _waiting(self) -> int:
        turns = self.limits._turns
        return turns.depth + sum(map(len, turns._background.values()))

    def _refused(self) -> int:
        return sum(task.done() for name, task in self.tasks.items() if name not in self.order)

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
            await self.tasks[name]
        await self.quiet()

    async def _hold(self, name: str, background: bool) -> None:
        caller = Caller(name.split(".", maxsplit=1)[0], "shop", frozenset({"caller"}))
        async with self.limits.admitted(caller, 1, 1, background):
            self.order.append(name)
            await self.ends[name].wait()

    def fault(self, name: str) -> ApiError:
        fault = self.tasks[name].exception()
        assert isinstance(fault, ApiError)
        return fault

    async def finish(self) -> None:
        for end in self.ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.limits._turns.depth, +self.limits._turns._running, self.limits._turns._bounds) == (0, {}, {})


def test_keys_take_turns_and_within_a_key_the_first_comes_first(store: Store) -> None:
    async def scene() -> None:
        gate = Scene(store, concurrency=1)
        await gate.come("a.1", "a.2", "a.3", "a.4", "b.1", "b.2", "c.1")
        for name in ("a.1", "a.2", "b.1", "c.1", "a.3", "b.2", "a.4"):
            await gate.end(name)
        assert gate.order == ["a.1", "a.2", "b.1", "c.1", "a.3", "b.2", "a.4"]
        await gate.finish()

    asyncio.run(scene())


def test_a_full_queue_drops_the_last_of_the_longest_line(store: Store) -> None:
    async def scene() -> None:
        gate = Scene(store, concurrency=1, max_queue=3)
        await gate.come("a.1", "a.2", "a.3", "a.4", "a.5")
        assert (gate.fault("a.5").status_code, gate.fault("a.5").code) == (429, "queue_full")
        await gate.come("b.1")
        assert gate.fault("a.4").code == "queue_full"  # b may wait though a filled the queue
        gate.limits._turns.service_seconds = 7.0
        await gate.come("a.6")
        assert (gate.fault("a.6").headers or {})["Retry-After"] == "28"  # 4 of 7 s in one turn
        exposition = generate_latest(gate.registry).decode()
        assert 'forgeline_rejected_total{reason="queue_full"} 3.0' in exposition
        assert "forgeline_waiting_requests 3.0" in exposition
        assert "forgeline_ongoing_requests 4.0" in exposition
        await gate.finish()

    asyncio.run(scene())


def test_a_key_at_its_own_bound_lets_others_pass(store: Store) -> None:
    set_limits(store, "a", concurrency=1)

    async def scene() -> None:
        gate = Scene(store, concurrency=3)
        await gate.come("a.1", "a.2", "b.1", "b.2")
        assert gate.order == ["a.1", "b.1", "b.2"]
        await gate.end("b.1")
        assert gate.order == ["a.1", "b.1", "b.2"]
        await gate.end("a.1")
        assert gate.order[-1] == "a.2"
        await gate.finish()

    asyncio.run(scene())


def test_what_is_in_the_background_lets_all_others_pass(store: Store) -> None:
    async def scene() -> None:
        gate = Scene(store, concurrency=1, max_queue=1, max_wait=0.2)
        await gate.come("a.1")
        await gate.come("batch.1", "batch.2", background=True)
        await gate.come("b.1")
        await gate.end("a.1")
        assert gate.order == ["a.1", "b.1"]
        await asyncio.sleep(0.25)  # the background has more patience than max_wait
        await gate.end("b.1")
        assert gate.order[2:] == ["batch.1"]
        await gate.finish()

    asyncio.run(scene())


def test_a_request_waits_only_so_long_and_none_while_draining(store: Store) -> None:
    async def scene() -> None:
        gate = Scene(store, concurrency=1, max_wait=0.1)
        await gate.come("a.1", "a.2")
        with suppress(ApiError):
            await gate.tasks["a.2"]
        assert (gate.fault("a.2").status_code, gate.fault("a.2").code) == (503, "queue_timeout")
        gate.limits.draining = True
        await gate.come("a.3")
        assert (gate.fault("a.3").status_code, gate.fault("a.3").code) == (503, "draining")
        await gate.finish()

    asyncio.run(scene())


def test_hanging_up_leaves_nothing_behind(store: Store) -> None:
    async def scene() -> None:
        gate = Scene(store, concurrency=1)
        await gate.come("a.1", "a.2", "a.3")
        gate.tasks["a.2"].cancel()
        await gate.end("a.1")
        assert gate.order == ["a.1", "a.3"]
        await gate.end("a.3")
        async with gate.limits.admitted(Caller("b", "shop", frozenset()), 1, 1):
            await gate.come("a.4")
        gate.tasks["a.4"].cancel()  # it was given its turn, and could not take it yet
        async with gate.limits.admitted(Caller("b", "shop", frozenset()), 1, 1):
            await gate.come("a.5")
            gate.tasks["a.5"].cancel()  # it could not leave the line yet when its turn comes
        await gate.come("a.6")
        assert gate.order == ["a.1", "a.3", "a.6"]
        await gate.finish()

    asyncio.run(scene())


@pytest.mark.parametrize("concurrency", [1, 8])
def test_many_at_once_all_get_their_turn(store: Store, concurrency: int) -> None:
    async def scene() -> None:
        gate = Limits(Settings(concurrency=concurrency, max_queue=1000), store, CollectorRegistry())
        running = most = 0

        async def ask(n: int) -> None:
            nonlocal running, most
            async with gate.admitted(Caller(f"k{n % 7}", "shop", frozenset()), 1, 1):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1

        await asyncio.gather(*(ask(n) for n in range(300)))
        assert most == concurrency

    asyncio.run(scene())
