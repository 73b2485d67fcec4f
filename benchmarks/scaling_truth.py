"""The simulator beside a real Ray Serve: the same requests, replicas and latency of both.

Command: python benchmarks/scaling_truth.py
A deployment of Ray Serve on this machine, made by the `ray` engine's own code, whose replicas take known times: each
streams a first token and then the rest, waits as long as is written down for as many as it answers at once, and uses
hardly any processor. So a machine with two cores can hold several that do not slow each other. With `--bundle PATH` the
replicas are the embedded engine of a bundle; then there must be a core for each, or they do slow each other.

One replica is measured first, through Ray's proxy (what `forgeline measure` does). Then bounded traffic rises and
falls: replicas come and go by the policy, and are counted twice a second. The simulator gets the requests' times and
lengths, what was measured, and how long replicas took to start in this run, one after the other: a start waits for the
machine, not for the policy. Printed are both sides' figures and their ratios; the bar is 15 %.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever else runs here goes before the replicas
import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from forgeline.config.schema.serve.engine import Ray
from forgeline.config.schema.serve.limits import Limits
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.serving.engines import ray as ray_engine
from forgeline.serving.scaling import fleet, service, traffic
from forgeline.serving.scaling.autoscaler import Rules
from forgeline.serving.scaling.render import AT_ONCE
from forgeline.serving.scaling.service import Service

KNOWN = Service(slots=8, at_once=(1, 8), first=(0.4, 1.0), token=(0.03, 0.06), start=0.0)
SCALING = {"min_replicas": 1, "max_replicas": 5, "ongoing_requests": 4, "window": 10, "up_delay": 4, "down_delay": 20}
STEPS = ((60, 1.0), (120, 7.0), (120, 2.0), (60, 0.5))  # seconds, requests a second
PORT, NAME, TOKENS, SEEDS, LOOK, AFTER = 8765, "truth", 24, 9, 0.5, 20.0
PARTS = 4  # of the wait for a first token, between which the others are counted again


class Scripted:
    """A replica that waits as long as is written down, with the doors of our own engine's server."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._service = Service.model_validate(order["service"])
        self._first, self._token = self._service.curves()
        self._running = 0

    def __serve_build_asgi_app__(self) -> Any:
        app, free = FastAPI(), asyncio.Semaphore(self._service.slots)

        async def reply(tokens: int) -> AsyncIterator[str]:
            async with free:
                self._running += 1
                try:
                    for _ in range(PARTS):
                        await asyncio.sleep(self._first[self._running] / PARTS)
                    yield 'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
                    for _ in range(tokens - 1):
                        await asyncio.sleep(self._token[self._running])
                finally:
                    self._running -= 1
            yield f'data: {{"choices": [], "usage": {{"completion_tokens": {tokens}}}}}\n\ndata: [DONE]\n\n'

        @app.post("/v1/chat/completions")
        async def complete(http: Request) -> StreamingResponse:
            return StreamingResponse(reply((await http.json())["max_tokens"]), media_type="text/event-stream")

        return app


async def watch(counted: list[tuple[float, int, int]], began: float) -> None:
    """Count the replicas that run, and all of them, until cancelled."""
    from ray import serve

    while True:
        status = await asyncio.to_thread(serve.status)
        [deployment] = status.applications[NAME].deployments.values()
        states = {getattr(state, "value", state): number for state, number in deployment.replica_states.items()}
        counted.append((time.monotonic() - began, states.get("RUNNING", 0), sum(states.values())))
        await asyncio.sleep(LOOK)


async def drive(trace: traffic.Trace, url: str, body: dict[str, Any]) -> tuple[list[Any], list[tuple[float, int, int]]]:
    """Send each request at its time; return how long each took, and the replicas over time."""
    import aiohttp

    counted: list[tuple[float, int, int]] = []
    began = time.monotonic()
    watching = asyncio.create_task(watch(counted, began))

    async def one(session: aiohttp.ClientSession, at: float, tokens: float) -> tuple[float, float]:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        asked = time.monotonic()
        found = await service.ask(session, url, {**body, "max_tokens": int(tokens)})
        return found.first, time.monotonic() - asked

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        requests = zip(trace.at, trace.tokens, strict=True)
        took = await asyncio.gather(*(one(session, at, tokens) for at, tokens in requests))
    await asyncio.sleep(max(0.0, began + trace.seconds + AFTER - time.monotonic()))
    watching.cancel()
    return took, counted


def starts(counted: list[tuple[float, int, int]]) -> list[float]:
    """Return how long replicas were between being asked for and running, oldest first (they run in that order)."""
    asked, found = [], []
    for (_, ran, had), (at, runs, has) in itertools.pairwise(counted):
        asked += [at] * max(0, has - had)
        for _ in range(max(0, runs - ran)):
            if asked:
                found.append(at - asked.pop(0))
    return found


def replica(bundle: Path | None) -> tuple[type, dict[str, Any], dict[str, Any]]:
    """Return the replica's class, what it is ordered, and how it is asked."""
    order: dict[str, Any] = {"application": NAME, "drain": 10.0, "service": KNOWN.model_dump(mode="json")}
    body = {"messages": [{"role": "user", "content": "Where can I eat?"}], "model": NAME, "max_tokens": TOKENS}
    if bundle is None:
        return Scripted, order, body
    from forgeline.serving.bundle import verify

    body |= {"model": verify(bundle).lineage.model, "temperature": 1.0}
    settings = Ray(name="ray").model_dump(mode="json")
    order |= {"bundle": str(bundle.resolve()), "root": str(Path.cwd()), "engine": settings}
    return ray_engine.Replica, {**order, "scaling": SCALING}, body


def means(first: Any, whole: Any, mean: float, most: float, hours: float) -> dict[str, float]:
    """Return what is compared."""
    return {
        "first token, mean (s)": float(np.mean(first)),
        "first token, p50 (s)": float(np.quantile(first, 0.5)),
        "first token, p95 (s)": float(np.quantile(first, 0.95)),
        "whole reply, p50 (s)": float(np.quantile(whole, 0.5)),
        "whole reply, p95 (s)": float(np.quantile(whole, 0.95)),
        "replicas that run, mean": mean,
        "replicas that run, most": most,
        "replica-seconds paid": hours * 3600,
    }


def simulated(trace: traffic.Trace, measured: Service, scaling: Scaling, began: list[float]) -> dict[str, float]:
    """Return the simulator's figures: medians of seeds of the router's choices, with the real starts in turn."""
    doors = fleet.Doors(10_000, Limits().max_queue, 300.0, AT_ONCE * scaling.ongoing_requests)
    rules = Rules.of(scaling, 0.0, trace.seconds + AFTER)
    every = []
    for seed in range(SEEDS):
        pace = fleet.Pace(*measured.curves(), np.array(began), 0.0)
        found = fleet.run(trace.at, trace.tokens, pace, doors, rules, 1.0, seed, AFTER)
        answered = ~np.isnan(found.whole)
        span = int(trace.seconds + AFTER)
        ready, paid = found.ready[:span], found.paid[:span]
        most = float(ready.max().round())
        every.append(means(found.first[answered], found.whole[answered], ready.mean(), most, paid.sum() / 3600))
    return {name: statistics.median(one[name] for one in every) for name in every[0]}


def truth(bundle: Path | None, seed: int, address: str | None) -> dict[str, Any]:
    """Measure, run and simulate; return both sides' figures and their ratios."""
    scaling = Scaling.model_validate(SCALING)
    settings = Ray(name="ray", cpus=0.1, address=address, proxy=f"127.0.0.1:{PORT}")
    made, order, body = replica(bundle)
    rates = np.concatenate([np.full(seconds, rate) for seconds, rate in STEPS])
    trace = traffic.Load(rates, np.arange(TOKENS - 15, TOKENS + 16, 2.0)).drawn(seed)
    url = f"http://127.0.0.1:{PORT}/{NAME}/v1"
    ray_engine.start(settings, scaling, PORT)
    alone = scaling.model_copy(update={"min_replicas": 1, "max_replicas": 1})
    ray_engine.deploy(made, order, settings, alone)
    measured = asyncio.run(service.measure(url, {}, [body], KNOWN.slots, 0.0))
    print(f"measured: {measured.model_dump_json()}", file=sys.stderr)
    ray_engine.deploy(made, order, settings, scaling)
    took, counted = asyncio.run(drive(trace, url, body))
    began = starts(counted)
    at, runs, has = (np.array(each, dtype=np.float64) for each in zip(*counted, strict=True))
    weights = np.diff(at, append=at[-1] + LOOK)
    first, whole = zip(*took, strict=True)
    real = means(first, whole, np.average(runs, weights=weights), runs.max(), (has * weights).sum() / 3600)
    guessed = simulated(trace, measured, scaling, began)
    return {
        "requests": len(took),
        "measured": measured.model_dump(mode="json"),
        "starts": [round(seconds, 1) for seconds in began],
        "real": real,
        "simulated": guessed,
        "ratio": {name: guessed[name] / real[name] for name in real},
    }


def main() -> None:
    """Print the figures of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="Let the replicas be this bundle's embedded engine.")
    parser.add_argument("--seed", type=int, default=1, help="Of the requests' times and lengths.")
    parser.add_argument("--address", help="A Ray cluster that runs already, in place of one of its own.")
    parser.add_argument("--json", action="store_true", help="Print everything as JSON.")
    arguments = parser.parse_args()
    found = truth(arguments.bundle, arguments.seed, arguments.address)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['requests']} requests; replicas took {found['starts']} s to start")
    print(f"{'':<26}{'real':>9}{'simulated':>11}{'ratio':>8}")
    for name, real in found["real"].items():
        print(f"{name:<26}{real:>9.3f}{found['simulated'][name]:>11.3f}{found['ratio'][name]:>8.2f}")


if __name__ == "__main__":
    main()
