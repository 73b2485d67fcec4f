"""Ray Serve under traffic that never stops, with one start for all that happens to it."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from scene import HELLO, LINEAGE
from test_remote import asked, until

from forgeline.config import Config
from forgeline.config.schema import Serve
from forgeline.serving.bundle import build, verify
from forgeline.serving.engines import EngineFailed, EngineUnavailable, GenerationRequest
from forgeline.serving.engines.make import made_all
from forgeline.serving.engines.ray import RayServe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (find_spec("ray") and find_spec("grpc")), reason="ray[serve] is not installed"),
]

REQUEST = GenerationRequest(messages=HELLO, max_tokens=8, temperature=0.0)
SETTINGS = {"name": "ray", "replicas": 2, "max_replicas": 2, "cpus": 0.5, "supervision": {"hang_timeout": 300}}


class Traffic:
    """Callers that ask for whole replies, one after another, and once more where nothing was given to them yet."""

    def __init__(self, engine: RayServe) -> None:
        self.engine = engine
        self.texts: list[str] = []
        self.retried: list[Exception] = []
        self.failed: list[Exception] = []

    async def caller(self) -> None:
        while True:
            try:
                try:
                    reply = await asked(self.engine, REQUEST)
                except (EngineUnavailable, EngineFailed) as fault:
                    self.retried.append(fault)
                    reply = await asked(self.engine, REQUEST)
                self.texts.append("".join(piece.text for piece in reply))
            except (EngineUnavailable, EngineFailed) as fault:
                self.failed.append(fault)
                await asyncio.sleep(0.1)

    async def passes(self, replies: int = 40) -> set[str]:
        """Return the different texts of the next replies."""
        self.texts.clear()
        await until(lambda: len(self.texts) >= replies, 60)
        return set(self.texts)


def replicas() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if "ray::ServeReplica" in child.name()}


def listening() -> set[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        found |= {at.laddr.ip for at in child.net_connections("inet") if at.status == psutil.CONN_LISTEN}
    return found


def test_a_killed_replica_and_a_new_bundle_fail_no_request(
    config: Config, bundle: Path, other_adapter: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    other = build(config, other_adapter, {**LINEAGE, "version": "4"}, config.root / "bundles")
    serve = Serve.model_validate({"engine": SETTINGS, "drain_timeout": 5})

    async def main() -> None:
        engine = made_all(serve, bundle, verify(bundle))["engine"]
        assert isinstance(engine, RayServe)
        await engine.start()
        traffic = Traffic(engine)
        callers: list[asyncio.Task[None]] = []
        try:
            folder = root / ".forgeline/engines"
            await until(lambda: engine.ready and list(folder.glob("*.served")), 300)
            assert listening() <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
            callers = [asyncio.create_task(traffic.caller()) for _ in range(4)]
            before = await traffic.passes()
            assert len(before) == 1

            killed = replicas().pop()
            killed.kill()
            await traffic.passes()
            assert not traffic.failed, (traffic.failed, traffic.retried)
            await until(lambda: len(replicas() - {killed}) == 2, 120)

            await engine.roll(other)
            after = await traffic.passes()
            assert len(after) == 1
            assert after != before
            assert not traffic.failed
        finally:
            for caller in callers:
                caller.cancel()
            left = psutil.Process().children(recursive=True)
            await engine.close()
        assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)

    asyncio.run(main())
