"""Another version under traffic that never stops; one that is worse must be gone before it answered 200 requests."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from forgeline.config.schema import Guards
from forgeline.ledger import Entry, Ledger
from forgeline.serving.gateway.access import issuing
from forgeline.serving.operate import CHALLENGER, Operator
from forgeline.serving.order import Order
from tests.load import deployment
from tests.load.deployment import MODEL, bundle, order, settings
from tests.load.traffic import TIMEOUT, Outcome, Traffic, _error, _read_stream, _read_whole
from tests.load.upstream import Mode, Upstream

MOST = 200  # requests that a bad version may answer
WITHHELD = Guards().withheld
ROLLOUT = {"warm": 60.0, "shadows": 16}


@dataclass
class People(Traffic):
    """Clients behind which stand many people, each of whom asks once; `rung` of an outcome is the version."""

    async def _client(self, session: aiohttp.ClientSession, number: int, over: asyncio.Event) -> None:
        for count in itertools.count():
            if over.is_set():
                return
            stream = (number + count) % 2 == 0
            self.outcomes.append(await self._asked(session, f"{number} {count}", stream))
            await asyncio.sleep(self.pause)

    async def _asked(self, session: aiohttp.ClientSession, user: str, stream: bool) -> Outcome:
        question, began = f"question {user} with some words", time.monotonic()
        body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "stream": stream, "user": user}
        headers = {"authorization": f"Bearer {self.key}"}
        version, end, detail, id_ = "", "cut", "", None
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as got,
            ):
                version, data = f"version {got.headers.get('x-forgeline-version')}", await got.read()
                read = _read_stream if stream else _read_whole
                end, detail = read(data, question, "") if got.status == 200 else ("refused", _error(data))
                id_ = got.headers.get("x-request-id") if end == "well" else None
        except (aiohttp.ClientError, OSError) as fault:
            detail = repr(fault)
        end = "withheld" if end == "wrong" and detail.endswith(WITHHELD) else end
        return Outcome(began, time.monotonic(), stream, end, detail, version, id_)  # type: ignore[arg-type]

    def failed(self) -> list[Outcome]:
        """Return what was not answered, or wrongly; what a guard withheld was answered as it must be."""
        return [one for one in self.outcomes if one.end not in ("well", "withheld")]


@dataclass
class Live:
    """A gateway that serves an order, and its operator."""

    path: Path
    url: str
    process: psutil.Popen
    key: str
    operator: Operator

    def traffic(self) -> People:
        return People(self.url, MODEL, self.key)

    async def tries(self, engine: Upstream, version: str = "2", until: str = "running", **body: Any) -> None:
        """Start a roll-out of a version on an engine, and return once it is let at callers."""
        live = Order.read(self.path)
        path = bundle(self.path.parent, version)
        changed = live.serve.model_validate(live.serve.model_dump() | {"engine": {"name": "url", "url": engine.url}})
        live.model_copy(update={"bundle": path, "serve": changed}).save(self.path.with_name(CHALLENGER))
        await self.changes("", **body)
        await self.until(until)

    async def changes(self, verb: str, **body: Any) -> dict[str, Any]:
        """Have the roll-out changed."""
        asked = {"reason": "a load test", **body}
        if not verb:
            return await asyncio.to_thread(self.operator._asked, "POST", "/rollout", asked)
        return await asyncio.to_thread(self.operator.change, verb, **asked)

    async def until(self, state: str, seconds: float = 60) -> dict[str, Any]:
        """Return the roll-out once it is in a state."""
        deadline = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = (await asyncio.to_thread(self.operator.rollout))["rollout"]
            if found["state"] == state:
                return found
            assert time.monotonic() < deadline, f"not {state}: {found}"
            await asyncio.sleep(0.05)

    def written(self, action: str) -> list[Entry]:
        return [one for one in Ledger(self.path.with_name("ledger.jsonl")).entries() if one.action == action]


@contextmanager
def live(folder: Path, engine: Upstream, again: Live | None = None) -> Iterator[Live]:
    """Serve version 1, or once more what an order says, until the block ends."""
    path, ledger = folder / "order.json", folder / "ledger.jsonl"
    if again is None:
        serve = settings(folder, engine, rollout=ROLLOUT)
        order(folder, serve).model_copy(update={"ledger": ledger}).save(path)
    serve = Order.read(path).serve.model_dump(mode="json")
    with issuing.opened(serve["store"]) as store:
        made = [issuing.create(store, Ledger(ledger), "load", "load", [role], [], 1) for role in ("caller", "operator")]
    url = f"http://127.0.0.1:{serve['port']}"
    with (folder / "gateway.log").open("a") as log:
        command = [sys.executable, "-m", "forgeline.serving.gateway", "--order", str(path)]
        process = psutil.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not deployment._ready(url):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the gateway is not ready"
            time.sleep(0.05)
        yield Live(path, url, process, made[0][1], Operator(url, made[1][1], None))
    finally:
        if process.is_running():
            process.kill()
            process.wait()


async def canary(folder: Path, seconds: float) -> str:
    """Give a version 30 % of the callers, then 60 %, promote it, and roll back."""
    with Upstream() as engine, Upstream() as other, live(folder, engine) as served:
        await asyncio.to_thread(engine.tell, "well", 0.002)
        await asyncio.to_thread(other.tell, "well", 0.002)
        traffic = served.traffic()
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("canary 30 %")
            await served.tries(other, share=0.3)
            await asyncio.sleep(seconds)
            traffic.mark("canary 60 %")
            await served.changes("share", share=0.6)
            await asyncio.sleep(seconds)
            traffic.mark("promoted")
            await served.changes("promote")
            await asyncio.sleep(seconds)
            traffic.mark("rolled back")
            await served.changes("rollback")
            await asyncio.sleep(seconds)
        answered = {name: {one.rung for one in traffic.window(name)[20:]} for _, name in traffic.marks}
        assert answered["canary 30 %"] == answered["canary 60 %"] == {"version 1", "version 2"}
        assert "version 2" in answered["promoted"]
        return _checked(traffic, served)


async def shadow(folder: Path, seconds: float) -> str:
    """Copy half of the requests to a version, then promote it."""
    with Upstream() as engine, Upstream() as other, live(folder, engine) as served:
        traffic = served.traffic()
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("shadow")
            await served.tries(other, mode="shadow", share=0.5)
            await asyncio.sleep(seconds)
            copies = (await served.until("running"))["copies"]
            assert {one.rung for one in traffic.window("shadow")} == {"version 1"}
            traffic.mark("promoted")
            await served.changes("promote")
            await asyncio.sleep(seconds)
        assert copies["same"] == copies["compared"] > 0, copies
        return f"{_checked(traffic, served)}\n  copies: {copies}"


async def engine_update(folder: Path, seconds: float) -> str:
    """Bring the same version up on another engine (blue-green), promote it, and take the first engine away."""
    with Upstream() as engine, Upstream() as other, live(folder, engine) as served:
        traffic = served.traffic()
        async with traffic.flowing():
            await asyncio.sleep(seconds)
            traffic.mark("beside")
            await served.tries(other, version="1", mode="blue-green", until="ready")
            await asyncio.sleep(seconds)
            traffic.mark("promoted")
            await served.changes("promote")
            asked = (await asyncio.to_thread(engine.counts))["asked"]
            await asyncio.sleep(seconds)
            assert (await asyncio.to_thread(engine.counts))["asked"] < asked + 2 * traffic.clients
            traffic.mark("the first engine is gone")
            await asyncio.to_thread(engine.kill)
            await asyncio.sleep(seconds)
        assert (await asyncio.to_thread(other.counts))["asked"] > 20
        return _checked(traffic, served)


async def worse(folder: Path, seconds: float) -> str:
    """Let a version be slow, fail, fail now and then, or be toxic, once it is let at a fifth of the callers."""
    bad: tuple[tuple[str, Mode, float], ...] = (
        ("slower, twice as long", "well", 0.008),
        ("always fails", "error", 0.004),
        ("fails every third time", "flaky", 0.004),
        ("toxic", "toxic", 0.004),
    )
    lines = []
    with Upstream() as engine, Upstream() as other, live(folder, engine) as served:
        await asyncio.to_thread(engine.tell, "well", 0.004)
        traffic = served.traffic()
        async with traffic.flowing():
            await asyncio.sleep(max(seconds, 2.0))
            for name, mode, delay in bad:
                await asyncio.to_thread(other.tell, "well", 0.004)
                await served.tries(other, share=0.2)
                traffic.mark(name)
                await asyncio.to_thread(other.tell, mode, delay)
                began = time.monotonic()
                found = await served.until("aborted")
                answered, took = found["answered"]["challenger"], time.monotonic() - began
                lines.append(f"  {name}: {found['why']}, after {answered} of its requests, {took:.1f} s")
                assert answered < MOST, lines[-1]
                traffic.mark(f"after: {name}")
                await asyncio.sleep(seconds)
                late = [one for one in traffic.window(f"after: {name}") if one.began > traffic.marks[-1][0] + 0.5]
                assert {one.rung for one in late} == {"version 1"}
        assert len(served.written("rollout_aborted")) == len(bad)
        return "\n".join([_checked(traffic, served), *lines])


async def killed(folder: Path, seconds: float) -> str:
    """Kill the gateway with SIGKILL during a roll-out, and start it again."""
    with Upstream() as engine, Upstream() as other:
        with live(folder, engine) as served:
            async with served.traffic().flowing():
                await served.tries(other, share=0.5)
                await asyncio.sleep(seconds)
                served.process.kill()
        with live(folder, engine, served) as served:
            traffic = served.traffic()
            async with traffic.flowing():
                await asyncio.sleep(seconds)
            [entry] = served.written("rollout_aborted")
            assert entry.facts["reason"] == "the gateway ended during it"
            assert {one.rung for one in traffic.outcomes} == {"version 1"}
            return _checked(traffic, served)


ROLLOUTS = (canary, shadow, engine_update, worse, killed)


def _checked(traffic: People, served: Live) -> str:
    """Assert that every request was answered, and return the table; stops the gateway first."""
    failed = traffic.failed()
    assert not failed, f"{len(failed)} of {len(traffic.outcomes)} failed, such as {failed[0]}\n{traffic.table()}"
    served.process.terminate()
    assert served.process.wait(60) == 0
    return f"{traffic.table()}\n  {len(traffic.outcomes)} requests, 0 failed"
