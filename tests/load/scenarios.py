"""What is done to the gateway under traffic, and what must still hold; each returns a table of what happened.

In every window: no request is lost without a word, none is answered wrongly, every error has OpenAI's shape, no whole
request fails while the ladder has an answer, and what a client was told is well is in the audit record.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from forgeline.config import Config, load
from forgeline.errors import ServingError
from forgeline.serving.bundle import verify
from forgeline.serving.order import Order
from forgeline.serving.targets import Job, Running, local, systemd
from tests.load.deployment import LADDER, MODEL, Gateway, NotHere, Switch, free_port, gateway, order, settings
from tests.load.traffic import Traffic, ask
from tests.load.upstream import Mode, Upstream

RESTED = 1.5  # seconds until the breaker tries an engine again that came back
BROKEN: tuple[Mode, ...] = ("error", "busy", "reset", "hang", "silent", "cut")
GROWTH = 1.10  # of the memory
Scenario = Callable[[Path, float], Awaitable[str]]


async def crash(folder: Path, seconds: float) -> str:
    """Kill the engine under traffic, let it come back, then kill all there are."""
    with Upstream() as engine, Upstream() as other, gateway(settings(folder, engine, other), folder) as served:
        traffic = Traffic(served.url, MODEL, served.key)
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("engine killed")
            await asyncio.to_thread(engine.kill)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(engine.start)
            await asyncio.sleep(RESTED)
            traffic.mark("engine back")
            await asyncio.sleep(seconds)
            traffic.mark("both killed")
            await asyncio.to_thread(engine.kill)
            await asyncio.to_thread(other.kill)
            await asyncio.sleep(seconds)
        _check(traffic, served)
        rungs = {name: {one.rung for one in traffic.window(name) if one.end == "well"} for _, name in traffic.marks}
        assert "second" in rungs["engine killed"]
        assert "engine" in rungs["engine back"]
        assert "queue" in rungs["both killed"]
        return traffic.table()


async def faults(folder: Path, seconds: float) -> str:
    """Let the engine fail in every way there is, one after the other; another one is well."""
    with Upstream() as engine, Upstream() as other, gateway(settings(folder, engine, other), folder) as served:
        traffic = Traffic(served.url, MODEL, served.key)
        async with traffic.flowing():
            for mode in BROKEN:
                traffic.mark(mode)
                await asyncio.to_thread(engine.tell, mode, 0.01)
                await asyncio.sleep(seconds + 1)  # more than the ladder's patience
                traffic.mark(f"well after {mode}")
                await asyncio.to_thread(engine.tell)
                await asyncio.sleep(RESTED)
        _check(traffic, served)
        cut = [one for one in traffic.window("cut") if one.stream]
        assert any(one.end == "error event" for one in cut), "no stream was cut"
        return traffic.table()


async def restart(folder: Path, seconds: float) -> str:
    """Start a second gateway behind a switch, turn to it, and let the first drain; then once more."""
    with Upstream() as engine, ExitStack() as running:
        serve = settings(folder, engine)
        await asyncio.to_thread(engine.tell, "well", 0.02)  # replies take a while: some are in flight
        served = running.enter_context(gateway(serve, folder))
        switch = Switch(served.port)
        traffic = Traffic(switch.url, MODEL)
        async with switch.open(), traffic.flowing():
            await asyncio.sleep(seconds)
            for mark in ("drain", "drain again"):
                following = running.enter_context(gateway(serve | {"port": free_port()}, folder))
                traffic.mark(mark)
                switch.target = following.port
                await asyncio.sleep(0.2)  # connections that were on their way to the former have come
                assert await asyncio.to_thread(served.stop) == 0
                await asyncio.sleep(seconds)
                served = following
        _check(traffic, served)
        assert {one.end for one in traffic.outcomes} == {"well"}
        return traffic.table()


async def update(folder: Path, seconds: float) -> str:
    """Deploy another bundle, other settings and two that fail under one keeper; kill the gateway; stop."""
    with Upstream() as engine:
        serve = settings(folder, engine)
        await asyncio.to_thread(engine.tell, "well", 0.02)  # replies take a while: some are in flight
        traffic = Traffic(f"http://127.0.0.1:{serve['port']}", MODEL, clients=3, kept=3, retries=2, pause=0.05)
        steps = {
            "another bundle": (order(folder, serve, "2"), True),
            "other settings": (order(folder, serve | {"drain_timeout": 20.0}, "2"), True),
            "one that does not load": (order(folder, serve | {"engine": {"name": "transformers"}}, "3"), False),
            "one that fails its check": (order(folder, serve, "4"), False),
        }
        first = await asyncio.to_thread(local.deploy, folder, order(folder, serve), lambda deployed: None)
        try:
            async with traffic.flowing():
                await asyncio.sleep(seconds)
                for mark, (ordered, passes) in steps.items():
                    traffic.mark(mark)
                    assert await asyncio.to_thread(_deployed, folder, ordered, passes) is passes
                    await asyncio.sleep(seconds)
                keeper = psutil.Process(first.pid)
                await _until(lambda: len(keeper.children()) == 1, 60, "a gateway that gave way is still there")
                gone = {"gateway killed": await _kill(traffic, "gateway killed", keeper.children()[0])}
                await _until(lambda: _health(local.status(folder)) == "ready", 60, "the gateway did not come back")
                await asyncio.sleep(seconds)
            return _checked_but(traffic, gone)
        finally:
            assert (await asyncio.to_thread(local.stop, folder)) is not None


async def managed(folder: Path, seconds: float) -> str:
    """Do the same under systemd, whose user's manager must run; kill the keeper too."""
    manager = systemd.Manager("user")
    try:
        manager.do("show-environment")
    except ServingError as fault:
        raise NotHere(str(fault)) from None
    with Upstream() as engine:
        (folder / "environment").write_text(f"PYTHONPATH={os.pathsep.join(sys.path)}\n")
        target, unit = systemd.Systemd(), "forgeline-load-test.service"
        serve = settings(folder, engine, targets={"systemd": {"environment": str(folder / "environment")}})
        await asyncio.to_thread(engine.tell, "well", 0.02)
        traffic = Traffic(f"http://127.0.0.1:{serve['port']}", MODEL, clients=3, kept=3, retries=2, pause=0.05)
        unwell = serve | {"engine": {"name": "transformers"}}
        steps = {"another bundle": (serve, "2", True), "one that does not load": (unwell, "3", False)}
        assert await asyncio.to_thread(_placed, target, folder, serve, "1")
        try:
            async with traffic.flowing():
                await asyncio.sleep(seconds)
                for mark, (asked, version, passes) in steps.items():
                    traffic.mark(mark)
                    assert await asyncio.to_thread(_placed, target, folder, asked, version) is passes
                    await asyncio.sleep(seconds)
                gone = {}
                for mark in ("gateway killed", "keeper killed"):
                    keeper = psutil.Process(int(manager.property(unit, "MainPID")))
                    await _until(lambda: len(keeper.children()) == 1, 60, "a gateway is still there")  # noqa: B023
                    victim = keeper if mark == "keeper killed" else keeper.children()[0]
                    gone[mark] = await _kill(traffic, mark, victim)
                    await _until(lambda: _health(target.status(folder)) == "ready", 90, "it did not come back")
                    await asyncio.sleep(seconds)
            return _checked_but(traffic, gone)
        finally:
            assert (await asyncio.to_thread(target.destroy, folder)) is not None
            assert target.status(folder) is None


async def locked(folder: Path, seconds: float) -> str:
    """Hold an exclusive lock on the database."""
    with Upstream() as engine, gateway(settings(folder, engine), folder) as served:
        traffic = Traffic(served.url, MODEL, served.key)
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            with sqlite3.connect(served.database, isolation_level=None) as other:
                other.execute("BEGIN EXCLUSIVE")
                traffic.mark("locked")
                await asyncio.sleep(seconds + 2)
                other.execute("ROLLBACK")
            traffic.mark("let go")
            await asyncio.sleep(seconds)
        _check(traffic, served)
        assert len([one for one in traffic.window("locked") if one.end == "well"]) > traffic.clients
        return traffic.table()


async def full(folder: Path, seconds: float) -> str:
    """Let no file of the gateway grow: what it writes fails as on a full disk."""
    with Upstream() as engine, gateway(settings(folder, engine), folder) as served:
        traffic = Traffic(served.url, MODEL, served.key)
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("full")
            served.process.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            await asyncio.sleep(seconds + 2)
            served.process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            traffic.mark("room again")
            await asyncio.sleep(seconds)
        _check(traffic, served)
        return traffic.table()


async def redis_hangs(folder: Path, seconds: float) -> str:
    """Stop the Redis that counts the rates, so that it takes connections and never answers."""
    if not shutil.which("redis-server"):
        raise NotHere("redis-server is not on PATH")
    port = free_port()
    redis = subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    limits = {"request_timeout": 10.0, "redis": f"redis://127.0.0.1:{port}/0"}
    try:
        with Upstream() as engine, gateway(settings(folder, engine, limits=limits), folder) as served:
            traffic = Traffic(served.url, MODEL, served.key)
            async with traffic.flowing():
                await asyncio.sleep(seconds)
                traffic.mark("Redis hangs")
                redis.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds + 2)
                traffic.mark("Redis goes on")
                redis.send_signal(signal.SIGCONT)
                await asyncio.sleep(seconds)
            _check(traffic, served)
            slowest = max(one.ended - one.began for one in traffic.window("Redis hangs"))
            assert slowest < 3, f"a request waited {slowest:.1f} s for Redis"
            return traffic.table()
    finally:
        redis.kill()
        redis.wait()


async def rude(folder: Path, seconds: float) -> str:
    """Let clients hang up half-way, and others read nothing, while others behave."""
    calm = {"limits": {"request_timeout": 6.0}, "ladder": LADDER | {"patience": 5.0}}
    with Upstream() as engine, gateway(settings(folder, engine, **calm), folder) as served:
        traffic = Traffic(served.url, MODEL, served.key)
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("20 hang up")
            await asyncio.to_thread(engine.tell, "well", 0.2)
            for leaver in [_begun(served, f"{number} " + "word " * 200) for number in range(20)]:
                await asyncio.to_thread(leaver.recv, 64)
                leaver.close()
            await _until(lambda: engine.counts()["left"] >= 20, 10, "the engine works on for clients that left")
            await asyncio.to_thread(engine.tell)
            traffic.mark("three read nothing")
            long = "Long " * 16_000  # whose answer, 8 MB, is more than the system's buffers take
            silent = [_begun(served, f"{long}{number}", receives=4096) for number in range(3)]
            await asyncio.sleep(seconds)
        await _until(lambda: not _connections(served), 45, "clients that never read are held for ever")
        for client in silent:
            client.close()
        _check(traffic, served)
        return traffic.table()


async def memory(folder: Path, seconds: float, requests: int = 20_000) -> str:
    """Ask many different questions; the memory may grow by a tenth after a fifth of them."""
    cache = {"bytes": 1_000_000}  # full after the warm-up
    with Upstream() as engine, gateway(settings(folder, engine, cache=cache), folder) as served:
        warm, left = requests // 5, requests
        ends: set[str] = set()
        before = 0

        async def client() -> None:
            nonlocal left, before
            while left > 0:
                left -= 1
                ends.add((await ask(session, served.url, MODEL, stream=left % 2 == 0, key=served.key)).end)
                if left == requests - warm:
                    before = served.memory()

        began = time.monotonic()
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(client() for _ in range(16)))
        rate = requests / (time.monotonic() - began)
        after = served.memory()
        assert ends == {"well"}
        assert after <= before * GROWTH, f"memory grew from {before >> 20} to {after >> 20} MiB"
        return f"  {requests} requests, {rate:.0f}/s: {before >> 20} MiB after {warm}, {after >> 20} MiB at the end"


async def budget(folder: Path, seconds: float, streams: int = 64) -> str:
    """Ask for many streams at once on a budget that is enough for some of them."""
    limits = {"request_timeout": 10.0, "max_queue": streams, "prices": {"prompt": 1.0, "completion": 1.0}}
    with Upstream() as engine, gateway(settings(folder, engine, limits=limits), folder) as served:
        await asyncio.to_thread(engine.tell, "well", 0.02)
        if not served.set_budget(1.0):
            raise NotHere("the gateway has no budgets")
        async with aiohttp.ClientSession() as session:
            asked = [ask(session, served.url, MODEL, stream=True, key=served.key) for _ in range(streams)]
            outcomes = await asyncio.gather(*asked)
        well = [one for one in outcomes if one.end == "well"]
        refused = [one for one in outcomes if one.end == "refused" and "insufficient_quota" in one.detail]
        assert len(well) + len(refused) == streams
        assert well
        assert refused
        spent = served.spent()
        assert spent <= 1.0, f"{spent} was spent of a budget of 1"
        return f"  {len(well)} of {streams} streams were answered, {spent:.3f} of 1.000 spent"


SCENARIOS: tuple[Scenario, ...] = (
    crash,
    faults,
    restart,
    update,
    managed,
    locked,
    full,
    redis_hangs,
    rude,
    budget,
    memory,
)


def _placed(target: systemd.Systemd, folder: Path, serve: dict[str, Any], version: str) -> bool:
    """Deploy by a target; return whether it took over."""
    ordered, shipped = order(folder, serve, version), load(Path(__file__).parents[2])
    project = shipped.project.model_dump() | {"name": "load-test"}
    values = {**shipped.model_dump(), "root": folder, "project": project, "serve": ordered.serve.model_dump()}
    job = Job(Config.model_validate(values), ordered.bundle, verify(ordered.bundle), lambda url: None)
    try:
        target.deploy(job, target.plan(job))
    except ServingError as fault:
        print(fault)
        return False
    return True


def _deployed(folder: Path, ordered: Order, passes: bool) -> bool:
    """Deploy, with a smoke test that passes or not; return whether it took over."""

    def check(deployment: local.Deployment) -> None:
        if not passes:
            raise ServingError("The smoke test failed.")

    try:
        local.deploy(folder, ordered, check)
    except ServingError:
        return False
    return True


def _health(status: local.Status | Running | None) -> str:
    assert status is not None
    return status.health


async def _kill(traffic: Traffic, mark: str, process: psutil.Process) -> float:
    """Begin a window with a kill, and return when the process was gone: until then it has what is sent to it."""
    traffic.mark(mark)
    process.kill()
    await asyncio.to_thread(process.wait, 10)
    return time.monotonic()


def _checked_but(traffic: Traffic, kills: dict[str, float]) -> str:
    """Assert that nothing failed but what a killed process had in hand before it was gone; return what happened."""
    times = [(at, kills[mark]) for at, mark in traffic.marks if mark in kills]
    failed = [one for one in traffic.outcomes if one.end != "well"]
    odd = [one for one in failed if not any(one.began < gone and one.ended > at for at, gone in times)]
    assert not odd, f"{len(odd)} of {len(traffic.outcomes)} failed, such as {odd[0]}\n{traffic.table()}"
    waits = [max(one.ended - one.began for one in traffic.window(mark)) for mark in kills]
    return f"{traffic.table()}\n  in flight at the kills: {len(failed)}; the longest wait: {max(waits):.1f} s"


def _check(traffic: Traffic, served: Gateway) -> None:
    """Assert what every scenario promises; stops the gateway first, so that all is written."""
    odd = [one for one in traffic.outcomes if one.end in ("wrong", "cut", "broken") or "NOT IN" in one.detail]
    assert not odd, f"{len(odd)} of {len(traffic.outcomes)}, such as {odd[0]}\n{traffic.table()}"
    failed = [one for one in traffic.outcomes if not one.stream and one.end != "well"]
    assert not failed, f"{len(failed)} whole requests failed, such as {failed[0]}\n{traffic.table()}"
    assert served.stop() == 0
    recorded = served.recorded()
    lost = set() if recorded is None else traffic.acknowledged - recorded
    assert not lost, f"{len(lost)} of {len(traffic.acknowledged)} are not in the audit record, such as {min(lost)}"


def _begun(served: Gateway, question: str, receives: int | None = None) -> socket.socket:
    """Return a connection that has asked for a stream, and so far has read nothing."""
    client = socket.socket()
    if receives:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    client.settimeout(30)
    client.connect(("127.0.0.1", served.port))
    body = f'{{"model": "{MODEL}", "stream": true, "messages": [{{"role": "user", "content": "{question}"}}]}}'
    key = f"authorization: Bearer {served.key}\r\n" if served.key else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{key}"
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    return client


def _connections(served: Gateway) -> int:
    established = psutil.CONN_ESTABLISHED
    there = served.process.net_connections("tcp")
    return sum(one.laddr.port == served.port and one.status == established for one in there)


async def _until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(0.05)
