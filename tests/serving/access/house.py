"""A gateway with its door, gate and server, in front of an engine that says one word."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from scene import LINEAGE, free_port, wait_for

from forgeline.config.schema import Guards, Sampling, Serve
from forgeline.ledger import Ledger
from forgeline.serving.bundle import Lineage, Manifest
from forgeline.serving.engines import GenerationRequest, Piece, Usage
from forgeline.serving.gateway.access import issuing
from forgeline.serving.gateway.access.callers import Access
from forgeline.serving.gateway.app import create_app
from forgeline.serving.gateway.server import Server
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.web import Page
from forgeline.serving.sockets import listen

ROLES = issuing.ROLES


@dataclass
class Scripted:
    """Says one word to everybody, and breaks on the word "crash"."""

    name: str = "scripted"
    failure: None = None
    last_piece: float = 0.0
    ready: bool = True
    depth: int = 0
    models: tuple[str, ...] = ()
    gives_logprobs: bool = False

    async def start(self) -> None:
        pass

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        if request.messages[0]["content"] == "crash":
            raise RuntimeError("a fault of the program")
        yield Piece("Hello", Usage(1, 1), "stop")

    async def close(self) -> None:
        pass


@dataclass
class House:
    """What a test needs of a running gateway."""

    app: FastAPI
    access: Access
    store: Store
    ledger: Ledger
    port: int
    keys: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, key: str | None = None, body: Any = None, **headers: str) -> Answer:
        """Send a request with its path as it stands."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        raw = None if body is None else json.dumps(body)
        connection.putrequest(method, path, skip_host="host" in sent, skip_accept_encoding=True)
        for name, value in {**sent, "content-type": "application/json", "content-length": str(len(raw or ""))}.items():
            connection.putheader(name, value)
        connection.endheaders(raw.encode() if raw else None)
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
        connection.close()
        return answer

    def refused(self, reason: str) -> float:
        return self.access.refused.labels(reason)._value.get()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def code(self) -> str:
        code: str = json.loads(self.text)["error"]["code"]
        return code


def make_app(serve: Serve) -> FastAPI:
    lineage = Lineage(**LINEAGE)
    manifest = Manifest.model_construct(
        lineage=lineage, sampling=Sampling(), guards=Guards(toxicity={"action": "off"}), digest="b" * 64
    )
    page = Page(title="Replies", objective="", human_review="", system="")
    return create_app({"engine": Scripted()}, manifest, serve, Path.cwd(), page)


@contextmanager
def gateway(folder: Path, **access: Any) -> Iterator[House]:
    """Serve with these settings of access."""
    port = free_port()
    settings = {"port": port, "store": f"sqlite:///{folder}/gateway.db", "access": access}
    serve = Serve.model_validate(settings)
    app = make_app(serve)
    server = Server(app, serve)
    listener = listen(serve.host, serve.port)
    thread = threading.Thread(target=server.serve_on, args=(listener,))
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield House(app, app.state.access, app.state.store, Ledger(folder / "ledger.jsonl"), port)
    finally:
        server.should_exit = True
        thread.join()
