"""What admitting a request costs: rates in memory or Redis, a turn, and a budget in SQLite.

Command: python benchmarks/admission_cost.py
Clients ask at random moments, each 33 times a second on average, and hold what they got for 20 ms: the time is that
from asking to being admitted. Redis is left out where `redis-server` is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from forgeline.config.schema.serve.limits import Limits as Settings
from forgeline.serving.engines import Usage
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.limits import Limits, set_budget
from forgeline.serving.gateway.store import Store

SEED, REQUESTS, HELD, PAUSE = 17, 100, 0.02, 0.01
PLENTY = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}


async def seconds(settings: dict[str, Any], budget: bool, clients: int, folder: Path) -> list[float]:
    """Return how long each admission took, in order."""
    store = Store(f"sqlite:///{folder / 'gateway.db'}")
    store.open()
    if budget:
        set_budget(store, "key", 1e6)
    prices = {"prompt": 1.0, "completion": 1.0}
    limits = Limits(Settings.model_validate({"prices": prices, **settings}), store, CollectorRegistry())
    caller, took, draw = Caller("key", "tenant", frozenset()), [], random.Random(SEED)

    async def client() -> None:
        for _ in range(REQUESTS):
            await asyncio.sleep(draw.expovariate(1 / PAUSE))
            began = time.perf_counter()
            async with limits.admitted(caller, 100, 100) as admission:
                took.append(time.perf_counter() - began)
                await asyncio.sleep(HELD)
                await admission.settle(Usage(100, 50))

    await asyncio.gather(*(client() for _ in range(clients)))
    await limits.close()
    store.close()
    return sorted(took)


@contextmanager
def redis() -> Iterator[str | None]:
    """Yield the address of a Redis of its own, if there can be one."""
    if not shutil.which("redis-server"):
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("| what is checked | clients | p50, ms | p99, ms |\n|---|---|---|---|")
    with redis() as address:
        cases: list[tuple[str, dict[str, Any], bool]] = [
            ("a turn", {}, False),
            ("a turn, rates", {"per_key": PLENTY}, False),
            ("a turn, rates, budget", {"per_key": PLENTY}, True),
        ]
        if address:
            cases.append(("a turn, rates in Redis", {"per_key": PLENTY, "redis": address}, False))
        for name, settings, budget in cases:
            for clients in (1, 16):
                with tempfile.TemporaryDirectory() as folder:
                    took = asyncio.run(seconds(settings, budget, clients, Path(folder)))
                p50, p99 = (1000 * took[int(len(took) * share)] for share in (0.5, 0.99))
                print(f"| {name} | {clients} | {p50:.2f} | {p99:.2f} |")


if __name__ == "__main__":
    main()
