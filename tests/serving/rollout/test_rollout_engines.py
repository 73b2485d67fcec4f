"""Real engines under traffic that never stops: canary, promotion, roll-back and engine update, and no request fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scene import HELLO, LINEAGE, free_port, wait_for

from forgeline.config import Config
from forgeline.config.schema import Serve
from forgeline.serving.bundle import build, verify
from forgeline.serving.engines.make import made_all
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.web import Page
from forgeline.serving.operate import CHALLENGER
from forgeline.serving.order import Order

LOCAL = {"name": "transformers"}
RAY = {"name": "ray", "cpus": 0.5, "supervision": {"hang_timeout": 300}}
NO_RAY = not (find_spec("ray") and find_spec("grpc"))
ON_RAY = [pytest.mark.slow, pytest.mark.skipif(NO_RAY, reason="ray[serve] is not installed")]


class Crowd:
    """People who ask the same, each for themselves; half of them for streams."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.answers: list[str] = []  # the versions that gave them
        self.failures: list[str] = []
        self._over = threading.Event()

    @contextmanager
    def asking(self, threads: int = 3) -> Iterator[None]:
        """Ask for the time of the block."""
        crowd = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]
        for one in crowd:
            one.start()
        try:
            yield
        finally:
            self._over.set()
            for one in crowd:
                one.join()

    def passes(self, answers: int = 30) -> set[str]:
        """Return the versions that gave the next answers."""
        before = len(self.answers)
        wait_for(lambda: len(self.answers) >= before + answers or self.failures, 120)
        return {*self.answers[before:]}

    def _ask(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            body = {"model": "reply-writer", "messages": HELLO, "max_tokens": 6, "user": f"{number} {count}"}
            headers = {"cache-control": "no-store"}
            got = self.client.post("/v1/chat/completions", json={**body, "stream": count % 2 == 0}, headers=headers)
            if got.status_code == 200 and '"error"' not in got.text:
                self.answers.append(got.headers["x-forgeline-version"])
            else:
                self.failures.append(got.text)


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """Where a Ray cluster of this machine is, on which both versions have replicas of their own."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield {"address": made.address, "proxy": f"127.0.0.1:{free_port()}"}
    ray.shutdown()
    made.shutdown()


@pytest.mark.parametrize(
    ("engine", "other"),
    [
        (LOCAL, LOCAL | {"timeouts": {"first": 59}}),
        pytest.param(RAY, RAY | {"cpus": 0.4}, marks=ON_RAY),
    ],
    ids=["local", "ray"],
)
def test_another_bundle_and_another_engine_come_and_go_under_traffic(
    config: Config,
    bundle: Path,
    other_adapter: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    engine: dict[str, Any],
    other: dict[str, Any],
) -> None:
    monkeypatch.chdir(root)
    if engine["name"] == "ray":
        where = request.getfixturevalue("cluster")
        engine, other = engine | where, other | where
    build(config, other_adapter, {**LINEAGE, "version": "4"}, config.root / "bundles")
    serve = config.serve.model_dump(mode="json") | {"store": f"sqlite:///{tmp_path}/gateway.db", "engine": engine}
    scaling = {"min_replicas": 1, "max_replicas": 1}
    settings = Serve.model_validate(serve | {"scaling": scaling, "rollout": {"margins": {"error": 0}}})
    path = tmp_path / "order.json"
    order = Order(bundle=bundle, serve=settings, ledger=tmp_path / "ledger.jsonl")
    order.save(path)
    manifest, page = verify(bundle), Page(title="", objective="", human_review="", system="")
    app = create_app(made_all(settings, bundle, manifest), manifest, settings, root, page, path)

    def change(verb: str = "", **body: Any) -> None:
        done = client.post(f"/v1/rollout{verb}", json={"reason": "a test", **body})
        assert done.status_code == 200, done.text

    def state() -> str:
        return str(client.get("/v1/rollout").json()["rollout"]["state"])

    with TestClient(app, base_url="http://localhost") as client:
        wait_for(lambda: app.state.arms.live.engine.ready, 300)
        crowd = Crowd(client)
        with crowd.asking():
            assert crowd.passes() == {"3"}
            change(bundle="4", share=0.5)
            wait_for(lambda: state() == "running", 300)
            assert crowd.passes() == {"3", "4"}
            change("/promote")
            crowd.passes(4)  # those that were on their way
            assert crowd.passes() == {"4"}
            change("/rollback")
            crowd.passes(4)
            assert crowd.passes() == {"3"}
            change(bundle="4", mode="shadow")
            wait_for(lambda: state() == "running", 300)
            assert crowd.passes() == {"3"}
            wait_for(lambda: client.get("/v1/rollout").json()["rollout"]["copies"]["compared"], 120)
            change("/abort")
            changed = settings.model_validate(settings.model_dump() | {"engine": other})
            order.model_copy(update={"serve": changed}).save(path.with_name(CHALLENGER))
            change(mode="blue-green")
            wait_for(lambda: state() == "ready", 300)
            change("/promote")
            assert crowd.passes() == {"3"}
            assert Order.read(path).serve.engine == changed.engine
        assert not crowd.failures
        print(f"{engine['name']}: {len(crowd.answers)} answers, none failed")
