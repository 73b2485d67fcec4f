"""A whole gateway whose engine goes down: what it still answers, what it says of itself, and whom it tells."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scene import LINEAGE, free_port, wait_for
from test_supervised import program, starts
from test_webhooks import Receiver, receiver

from forgeline.config.schema import Guards, Sampling, Serve
from forgeline.config.schema.serve.engine import Supervision
from forgeline.errors import ForgelineError
from forgeline.serving.bundle import Lineage, Manifest
from forgeline.serving.engines import Engine
from forgeline.serving.engines.supervised import Supervised
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.server import Server
from forgeline.serving.gateway.web import Page
from forgeline.serving.sockets import listen

__all__ = ["receiver"]
MANIFEST = Manifest.model_construct(
    lineage=Lineage(**LINEAGE), sampling=Sampling(), guards=Guards(toxicity={"action": "off"}), digest="b" * 64
)
TEMPLATE = {"rungs": ["engine", "template"], "templates": [{"text": "We are open from 9 to 5."}]}


class Gateway:
    """A gateway in a thread, its engines in processes; `ended` is why it ended by itself."""

    def __init__(self, folder: Path, others: bool = False, restarts: int = 0, **settings: Any) -> None:
        self.folder = folder
        names = ("engine", "second") if others else ("engine",)
        engines: dict[str, Engine] = {}
        for name in names:
            (folder / name).mkdir()
            engines[name] = Supervised(name, program(folder / name), Supervision(restarts=restarts), 1)
        own = {"port": free_port(), "store": f"sqlite:///{folder}/gateway.db", "access": {"anonymous": ["admin"]}}
        self.serve = Serve.model_validate({**own, **settings})
        page = Page(title="Replies", objective="", human_review="", system="")
        self.server = Server(create_app(engines, MANIFEST, self.serve, folder, page), self.serve)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.serve.port}", timeout=30)
        self.engines = engines
        self.engine = engines["engine"]
        self.ended: ForgelineError | None = None

    def run(self) -> None:
        try:
            self.server.serve_on(listen(self.serve.host, self.serve.port))
        except ForgelineError as fault:
            self.ended = fault

    def ask(self, content: str = "Hello", **options: Any) -> httpx2.Response:
        body = {"model": "reply-writer", "messages": [{"role": "user", "content": content}], **options}
        return self.client.post("/v1/chat/completions", json=body)

    def break_down(self) -> None:
        """End the engine's process; another one ends at once."""
        (self.folder / "engine" / "broken").touch()
        os.kill(starts(self.folder / "engine")[-1], signal.SIGKILL)


@contextmanager
def served(gateway: Gateway) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=gateway.run)
    thread.start()
    try:
        wait_for(lambda: gateway.server.started and all(each.ready for each in gateway.engines.values()))
        yield thread
    finally:
        gateway.server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("settings", "rung"),
    [
        ({"others": True}, "second"),
        ({}, "stale"),
        ({"ladder": TEMPLATE}, "template"),
        ({"ladder": {"rungs": ["engine", "human"]}}, "queue"),
    ],
)
def test_a_gateway_whose_engine_is_given_up_answers_by_the_other_rungs(
    tmp_path: Path, settings: dict[str, Any], rung: str
) -> None:
    gateway = Gateway(tmp_path, **settings)
    with served(gateway) as thread:
        assert gateway.client.get("/readyz").json()["status"] == "ready"
        assert gateway.ask(temperature=0.7).headers["x-forgeline-rung"] == "engine"
        gateway.break_down()
        wait_for(lambda: gateway.engine.failure is not None)
        ready = gateway.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        answer = gateway.ask(temperature=0.7)
        assert (answer.status_code, answer.headers["x-forgeline-rung"]) == (200, rung)
        own, *_ = gateway.client.get("/v1/status").json()["engines"]
        assert "given up after 1 ends" in own["failure"]
        assert thread.is_alive()
    assert gateway.ended is None


def test_a_gateway_that_nothing_could_answer_ends_with_the_reason(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, ladder={"rungs": ["engine", "other"]})
    with served(gateway) as thread:
        gateway.ask()
        gateway.break_down()
        thread.join(30)
        assert "is given up after 1 ends" in str(gateway.ended)


def test_an_outage_is_told_once_and_so_is_its_end(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forgeline.serving.gateway.outages.LOOK_EVERY", 0.01)
    gateway = Gateway(tmp_path, restarts=9, people={"webhooks": {"networks": ["127.0.0.0/8"]}})
    with served(gateway):
        hook = {"url": receiver.url, "events": ["engine.down", "engine.up"]}
        assert gateway.client.post("/v1/webhooks", json=hook).status_code == 201
        gateway.break_down()
        wait_for(lambda: len(starts(tmp_path / "engine")) >= 3)
        wait_for(lambda: receiver.got)
        (tmp_path / "engine" / "broken").unlink()
        wait_for(lambda: len(receiver.got) == 2)
    told = [json.loads(body) for _, body in receiver.got]
    assert [(event["type"], event["data"]) for event in told] == [
        ("engine.down", {"engine": "engine"}),
        ("engine.up", {"engine": "engine"}),
    ]


def test_a_block_and_a_thumb_down_flag_an_interaction(tmp_path: Path, receiver: Receiver) -> None:
    gateway = Gateway(tmp_path, people={"webhooks": {"networks": ["127.0.0.0/8"]}})
    with served(gateway):
        hook = {"url": receiver.url, "events": ["interaction.flagged"]}
        assert gateway.client.post("/v1/webhooks", json=hook).status_code == 201
        blocked = gateway.ask("My key is AKIAIOSFODNN7EXAMPLE.")
        assert blocked.json()["error"]["code"] == "content_policy"
        said = {"interaction_id": gateway.ask().headers["x-request-id"]}
        for thumb in ("up", "down"):
            assert gateway.client.post("/v1/feedback", json={**said, "thumb": thumb}).status_code == 200
        wait_for(lambda: len(receiver.got) == 2)
    assert [json.loads(body)["data"] for _, body in receiver.got] == [
        {"interaction_id": blocked.headers["x-request-id"], "why": "block", "guards": ["secrets"]},
        {**said, "why": "thumb"},
    ]
