"""The gateway in a process of its own, before engines that fail on demand; what depends on its settings is here."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from forgeline.config.schema import Guards, Sampling, Serve
from forgeline.ledger import Ledger
from forgeline.records import write_json
from forgeline.serving.bundle import MANIFEST, Lineage, Manifest
from forgeline.serving.gateway.access import issuing
from forgeline.serving.order import Order
from tests.load.upstream import Upstream

MODEL = "reply-writer"
UNIT = 1_000_000_000  # of the allowances' money
LADDER = {"rungs": ["engine", "other", "cached", "human"], "patience": 1.0, "breaker": {"calls": 5, "rest": 1.0}}


class NotHere(Exception):
    """A scenario needs what this machine, or this gateway, does not have."""


def settings(folder: Path, upstream: Upstream, other: Upstream | None = None, **changes: Any) -> dict[str, Any]:
    """Return a deployment's settings: the engine is `upstream`, the ladder's other one `other`."""
    serve: dict[str, Any] = {
        "port": free_port(),
        "store": f"sqlite:///{folder / 'gateway.db'}",
        "engine": {"name": "url", "url": upstream.url},
        "others": {"second": {"name": "url", "url": other.url}} if other else {},
        "access": {"anonymous": ["caller"]},
        "limits": {"request_timeout": 10.0},
        "ladder": LADDER,
    }
    return serve | changes


@dataclass
class Gateway:
    """A running gateway; `key` is what its clients show."""

    url: str
    process: psutil.Popen
    database: Path
    key: str
    key_id: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def memory(self) -> int:
        """Return its resident bytes."""
        return int(self.process.memory_info().rss)

    def stop(self) -> int:
        """Let it drain and end; return its exit code."""
        self.process.terminate()
        return int(self.process.wait(60))

    def set_budget(self, amount: float) -> bool:
        """Bound what the clients' key may spend in all; False where there are no budgets yet."""
        with sqlite3.connect(self.database) as connection:
            row = (self.key_id, int(amount * UNIT))
            try:
                connection.execute(
                    "INSERT OR REPLACE INTO allowances (key, budget, period, began, spent) "
                    "VALUES (?, ?, 'total', 0, 0)",
                    row,
                )
            except sqlite3.OperationalError:
                return False
        return True

    def spent(self) -> float:
        """Return what the key has spent."""
        with sqlite3.connect(self.database) as connection:
            query = "SELECT spent FROM allowances WHERE key = ?"
            return float(connection.execute(query, (self.key_id,)).fetchone()[0]) / UNIT

    def recorded(self) -> set[str] | None:
        """Return the request ids in the audit record, or None where there is none yet."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as connection:
            try:
                return {row[0] for row in connection.execute("SELECT id FROM interactions")}
            except sqlite3.OperationalError:
                return None


@contextmanager
def gateway(serve: dict[str, Any], folder: Path) -> Iterator[Gateway]:
    """Run a gateway in a folder until the block ends.

    Raises:
        NotHere: if it does not know one of its settings.
    """
    path = folder / f"order-{serve['port']}.json"
    try:
        order(folder, serve).save(path)
    except ValidationError as fault:
        raise NotHere(f"the gateway does not know {', '.join(str(error['loc']) for error in fault.errors())}") from None
    with issuing.opened(serve["store"]) as store:
        key, text = issuing.create(store, Ledger(folder / "ledger.jsonl"), "load", "load", ["caller"], [], days=1)
    command = [sys.executable, "-m", "forgeline.serving.gateway", "--order", str(path)]
    with (folder / f"gateway-{serve['port']}.log").open("w") as log:
        process = psutil.Popen(command, cwd=folder, stdout=log, stderr=log)
    running = Gateway(f"http://127.0.0.1:{serve['port']}", process, folder / "gateway.db", text, key.id)
    try:
        deadline = time.monotonic() + 60
        while not _ready(running.url):
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the gateway is not ready"
            time.sleep(0.05)
        yield running
    finally:
        if process.is_running():
            process.kill()
            process.wait()


def order(folder: Path, serve: dict[str, Any], version: str = "1") -> Order:
    """Return what is to be served of a bundle that is written for it."""
    return Order(bundle=bundle(folder, version), serve=Serve.model_validate(serve))


def bundle(folder: Path, version: str = "1") -> Path:
    """Write a bundle without weights: its engine is elsewhere."""
    lineage = dict.fromkeys(Lineage.model_fields, "load") | {"model": MODEL, "version": version}
    manifest = Manifest(
        lineage=Lineage.model_validate(lineage),
        base=None,
        base_digest=None,
        method="lora",
        quantization="nf4",
        dtype="float32",
        sampling=Sampling(),
        guards=Guards(),
        files={},
    )
    manifest = manifest.model_copy(update={"digest": manifest.expected_digest()})
    made = folder / f"bundle-{version}"
    made.mkdir(exist_ok=True)
    write_json(made / MANIFEST, manifest.model_dump(mode="json"))
    return made


class Switch:
    """A balancer of one target at a time: new connections go to it, those there are stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Forward connections for the time of the block."""
        async with await asyncio.start_server(self._forward, "127.0.0.1", self.port):
            yield

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(_pipe(reader, there_writer), _pipe(there_reader, writer))
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:  # noqa: S310
            return bool(json.load(response)["status"] == "ready")
    except (OSError, ValueError):
        return False
