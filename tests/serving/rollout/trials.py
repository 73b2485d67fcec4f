"""A gateway started from an order, whose bundles are answered by scripted engines."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from scene import LINEAGE, wait_for

from forgeline.config.schema import Guards, Sampling, Serve
from forgeline.errors import ServingError
from forgeline.ledger import Entry, Ledger
from forgeline.records import write_json
from forgeline.serving.bundle import MANIFEST, Lineage, Manifest, verify
from forgeline.serving.engines import EngineFailed, GenerationRequest, Piece, Usage
from forgeline.serving.gateway import app as gateway
from forgeline.serving.gateway.web import Page
from forgeline.serving.order import Order

WORDS = ("We ", "open ", "at ", "nine ", "on ", "Sunday.")
GUARDS = {"toxicity": {"action": "off"}, "policy": {"denied": ["damn"]}}


@dataclass
class Scripted:
    """Says some words, as slowly as told; every so many requests it breaks, after `breaks_after` words."""

    words: tuple[str, ...] = WORDS
    delay: float = 0.0
    every: int = 0  # 0: never breaks
    breaks_after: int = 0
    loads: bool = True
    name: str = "scripted"
    failure: Any = None
    last_piece: float = 0.0
    ready: bool = False
    depth: int = 0
    models: tuple[str, ...] = ()
    gives_logprobs: bool = True
    asked: int = 0
    closed: bool = False

    async def start(self) -> None:
        self.closed, self.ready = False, self.loads
        self.failure = None if self.loads else ServingError("The weights are not there.")

    async def close(self) -> None:
        self.ready, self.closed = False, True

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        self.asked += 1
        breaks = self.every and self.asked > 1 and self.asked % self.every == 0  # not when it is tried first
        for said, word in enumerate(self.words):
            await asyncio.sleep(self.delay)
            if breaks and said == self.breaks_after:
                raise EngineFailed("as I was told")
            last = said == len(self.words) - 1
            yield Piece(word, Usage(3, said + 1), "stop" if last else None)


@dataclass
class House:
    """The gateway, what it was started from, and the engine of each version."""

    folder: Path
    engines: dict[str, Scripted]
    client: TestClient
    asked: int = 0
    versions: list[str] = field(default_factory=list)

    @property
    def order(self) -> Path:
        return self.folder / "order.json"

    def ask(self, user: str = "", **options: Any) -> Any:
        """Ask what nobody has asked yet, on behalf of somebody, another each time if nobody is named."""
        self.asked += 1
        body = {"model": "reply-writer", "messages": [{"role": "user", "content": f"Question {self.asked}"}]}
        answer = self.client.post("/v1/chat/completions", json={**body, "user": user or f"u{self.asked}", **options})
        self.versions.append(answer.headers["x-forgeline-version"])
        return answer

    def post(self, verb: str = "", **body: Any) -> Any:
        """Ask for a change of the roll-out."""
        path = f"/v1/rollout/{verb}" if verb else "/v1/rollout"
        return self.client.post(path, json={"reason": "a test", **body})

    def start(self, version: str = "2", until: str = "running", **body: Any) -> dict[str, Any]:
        """Start a roll-out, and return it once it is in a state."""
        begun = self.post(bundle=version, **body)
        assert begun.status_code == 200, begun.text
        return self.awaits(until)

    def awaits(self, state: str) -> dict[str, Any]:
        return wait_for(lambda: (found := self.rollout())["state"] == state and found, 10)

    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/rollout").json()["rollout"]
        return found

    def live(self) -> str:
        version: str = self.client.get("/v1/rollout").json()["live"]["version"]
        return version

    def written(self, action: str) -> list[Entry]:
        return [entry for entry in Ledger(self.folder / "ledger.jsonl").entries() if entry.action == action]

    def until_aborted(self, most: int = 1500) -> int:
        """Ask until the roll-out is aborted; return how many the challenger answered, or should have."""
        for _ in range(most // 4):
            assert {self.ask().status_code for _ in range(4)} == {200}
            found = self.rollout()
            if found["state"] == "aborted":
                return int(found["answered"]["challenger"])
        raise AssertionError(f"not aborted: {self.rollout()}")


def bundle(folder: Path, version: str, **differs: Any) -> Path:
    """Write a bundle without weights; return its folder."""
    manifest = Manifest(
        lineage=Lineage.model_validate({**LINEAGE, "version": version, **differs}),
        base=None,
        base_digest=None,
        method="lora",
        quantization="nf4",
        dtype="float32",
        sampling=Sampling(),
        guards=Guards.model_validate(GUARDS),
        files={},
    )
    manifest = manifest.model_copy(update={"digest": manifest.expected_digest()})
    path = folder / "bundles" / manifest.digest[:16]
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / MANIFEST, manifest.model_dump(mode="json"))
    return path


def made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engines: dict[str, Scripted] | None = None, **rollout: Any
) -> tuple[FastAPI, dict[str, Scripted]]:
    """Return what serves the order in a folder, which is of version 1 if there is none; version 2 lies beside it."""
    engines = {"1": Scripted(), "2": Scripted()} | (engines or {})
    path = folder / "order.json"
    if not path.exists():
        for version in engines:
            bundle(folder, version)
        serve = {
            "store": f"sqlite:///{folder}/gateway.db",
            "access": {"anonymous": ["admin"]},
            "rollout": rollout,
            "ladder": {"tries": 1},
            "people": {"review": {"when": "never", "sample": 0}},
        }
        first = Order(bundle=bundle(folder, "1"), serve=Serve.model_validate(serve), ledger=folder / "ledger.jsonl")
        first.save(path)

    def made_all(serve: Serve, bundle: Path, manifest: Manifest) -> dict[str, Any]:
        return {"engine": engines[manifest.lineage.version]}

    monkeypatch.setattr(gateway, "made_all", made_all)
    order = Order.read(path)
    manifest, page = verify(order.bundle), Page(title="Replies", objective="", human_review="", system="")
    own = made_all(order.serve, order.bundle, manifest)
    return gateway.create_app(own, manifest, order.serve, folder, page, path), engines


@contextmanager
def house(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engines: dict[str, Scripted] | None = None, **rollout: Any
) -> Iterator[House]:
    """Serve, in this process, what the order in a folder says."""
    app, engines = made(folder, monkeypatch, engines, **rollout)
    with TestClient(app, base_url="http://localhost") as client:
        yield House(folder, engines, client)


def delete(path: Path) -> None:
    shutil.rmtree(path)
