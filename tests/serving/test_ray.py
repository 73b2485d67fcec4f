"""Ray Serve under traffic that never stops: its replicas die, come and go, and so does a machine of the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from scene import HELLO, LINEAGE, free_port
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
SETTINGS = {"name": "ray", "cpus": 0.5, "supervision": {"hang_timeout": 300}}


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

    @asynccontextmanager
    async def from_callers(self, number: int) -> AsyncIterator[None]:
        callers = [asyncio.create_task(self.caller()) for _ in range(number)]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)

    async def passes(self, replies: int = 40) -> set[str]:
        """Return the different texts of the next replies."""
        self.texts.clear()
        await until(lambda: len(self.texts) >= replies, 60)
        return set(self.texts)


@asynccontextmanager
async def running(serve: Serve, bundle: Path) -> AsyncIterator[RayServe]:
    engine = made_all(serve, bundle, verify(bundle))["engine"]
    assert isinstance(engine, RayServe)
    await engine.start()
    try:
        await until(lambda: engine.ready, 300)
        yield engine
    finally:
        await engine.close()


def replicas() -> set[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return {child for child in found if "ray::ServeReplica" in child.name()}


def listening() -> set[str]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        found |= {at.laddr.ip for at in child.net_connections("inet") if at.status == psutil.CONN_LISTEN}
    return found


def test_replicas_follow_the_load_and_a_killed_one_fails_no_request(
    bundle: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    scaling = {"min_replicas": 1, "max_replicas": 2, "ongoing_requests": 2, "window": 5}
    scaling |= {"up_delay": 1, "down_delay": 6}
    serve = Serve.model_validate({"engine": SETTINGS, "scaling": scaling, "drain_timeout": 5})

    async def main() -> None:
        async with running(serve, bundle) as engine:
            traffic = Traffic(engine)
            assert listening() <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
            assert len(replicas()) == 1
            async with traffic.from_callers(6):
                assert len(await traffic.passes()) == 1
                await until(lambda: len(replicas()) == 2, 120)
                killed = replicas().pop()
                killed.kill()
                await traffic.passes()
                assert not traffic.failed, (traffic.failed, traffic.retried)
                await until(lambda: len(replicas() - {killed}) == 2, 120)
                await traffic.passes()
            quiet = time.monotonic()
            async with traffic.from_callers(1):
                await until(lambda: len(replicas()) == 1, 120)
                assert time.monotonic() - quiet > 6  # not before fewer were wished for so long
                await traffic.passes(10)
            assert not traffic.failed
            left = psutil.Process().children(recursive=True)
        assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)

    asyncio.run(main())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, which misses a lost node soon."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    memory = {"object_store_memory": 100 << 20}
    head = {"num_cpus": 2, "_system_config": health, "include_dashboard": False, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2, **memory)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_two_bundles_share_a_cluster_that_loses_a_machine(
    config: Config, bundle: Path, other_adapter: Path, root: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    monkeypatch.chdir(root)
    other = build(config, other_adapter, {**LINEAGE, "version": "4"}, config.root / "bundles")
    settings = {**SETTINGS, "address": cluster.address, "proxy": f"127.0.0.1:{free_port()}"}
    scaling = {"min_replicas": 2, "max_replicas": 2}
    serve = Serve.model_validate({"engine": settings, "scaling": scaling, "drain_timeout": 5})

    async def main() -> None:
        async with running(serve, bundle) as stable:
            traffic = Traffic(stable)
            async with traffic.from_callers(3):
                before = await traffic.passes()
                async with running(serve, other) as challenger:
                    assert challenger.application != stable.application
                    theirs = Traffic(challenger)
                    async with theirs.from_callers(1):
                        assert (await theirs.passes(10)).isdisjoint(before)
                        assert await traffic.passes(10) == before

                    every = replicas()
                    await asyncio.to_thread(cluster.remove_node, cluster.list_all_nodes()[1], allow_graceful=False)
                    assert await traffic.passes() == before
                    assert replicas() & every != every, "no replica was on the machine that was lost"
                    await until(lambda: len(replicas()) == 4, 120)
                    assert await traffic.passes() == before
                assert await traffic.passes() == before  # the challenger is gone, and took nothing along
            assert not traffic.failed, (traffic.failed, traffic.retried)

    asyncio.run(main())
