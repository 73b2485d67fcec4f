"""What the gateway adds to a call, and how many requests one worker answers, beside LiteLLM's proxy.

Command: python benchmarks/gateway_speed.py
Needs LiteLLM in an environment of its own, for its dependencies clash with ours:
    python -m venv .forgeline/litellm && .forgeline/litellm/bin/pip install 'litellm[proxy]==1.106.*'
Without it the gateway is measured alone. The engine behind both is a stub in its own process that answers at once. The
gateway runs as it is shipped (authentication, limits, masking, pattern guards, audit, ladder, cache), LiteLLM with its
master key and nothing else. Every question is a new one of about 1 kB with an e-mail address, every reply is checked.
The clients are a process of their own that speaks HTTP on kept connections; whether it or the stub is the bottleneck is
told by the rate of the direct calls. All are asked in turn, several rounds; medians over the rounds are printed, and
beside each rate how many processor seconds a request cost the proxy, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.load.deployment import MODEL, free_port, gateway, settings
from tests.load.upstream import MODEL as STUB
from tests.load.upstream import Upstream, answer

PROJECT = Path(__file__).parents[1]
MASTER_KEY = "sk-benchmark"
FILLER = "the guest house is in the centre of town and has free parking and wifi for two people on friday night; "
WARM_UP = 0.5  # seconds
CLIENTS = (1, 16)


@dataclass(frozen=True)
class Target:
    """Where questions are sent."""

    name: str
    url: str
    model: str
    key: str | None = None
    process: psutil.Process | None = None

    def processor_seconds(self) -> float:
        """Return what its process has used."""
        times = self.process.cpu_times() if self.process else None
        return times.user + times.system if times else 0.0


@dataclass(frozen=True)
class Run:
    """One target under so many clients: milliseconds, requests a second, processor milliseconds a request."""

    p50: float
    p99: float
    rate: float
    cost: float


def main() -> None:
    """Print added latency and rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--litellm", type=Path, default=PROJECT / ".forgeline/litellm", help="its environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each target is asked in a round")
    parser.add_argument("--clients", help=argparse.SUPPRESS)  # run as the clients' process, with a job as JSON
    given = parser.parse_args()
    if given.clients:
        import uvloop

        print(json.dumps(uvloop.run(_asked(**json.loads(given.clients)))))
        return
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        stub = running.enter_context(Upstream())
        served = running.enter_context(gateway(settings(folder, stub), folder))
        targets = [
            Target("direct", stub.url, STUB),
            Target("gateway", f"{served.url}/v1", MODEL, served.key, psutil.Process(served.process.pid)),
        ]
        if given.litellm.exists():
            targets.append(running.enter_context(_litellm(given.litellm, stub, folder)))
        else:
            print(f"{given.litellm} is not there: LiteLLM is not measured")
        for target in targets:
            _job(target, 2, 4 * given.seconds)  # the first calls load what the later ones use
        runs: dict[tuple[str, int], list[Run]] = {}
        for _ in range(given.rounds):
            for clients in CLIENTS:
                for target in targets:
                    runs.setdefault((target.name, clients), []).append(_run(target, clients, given.seconds))
    _print([target.name for target in targets], runs)


def _print(names: list[str], runs: dict[tuple[str, int], list[Run]]) -> None:
    added = {}
    for name in names[1:]:
        pairs = list(zip(runs[name, 1], runs["direct", 1], strict=True))
        p50 = statistics.median(run.p50 - direct.p50 for run, direct in pairs)
        p99 = statistics.median(run.p99 - direct.p99 for run, direct in pairs)
        added[name] = p50
        print(f"{name}: adds p50 {p50:.2f} ms, p99 {p99:.2f} ms at 1 client")
    rates = {name: statistics.median(run.rate for run in runs[name, CLIENTS[-1]]) for name in names}
    for name in names:
        cost = statistics.median(run.cost for run in runs[name, CLIENTS[-1]])
        p99 = statistics.median(run.p99 for run in runs[name, CLIENTS[-1]])
        cpu = f", {cost:.2f} processor ms a request" if cost else ""
        print(f"{name}: {rates[name]:.0f} requests/s at {CLIENTS[-1]} clients, p99 {p99:.0f} ms{cpu}")
    if "litellm" in names:
        by = added["litellm"] / added["gateway"]
        print(f"litellm over gateway: {by:.1f} times the added p50; gateway over litellm: ", end="")
        print(f"{rates['gateway'] / rates['litellm']:.1f} times the rate")
    print(f"the clients and the stub alone reach {rates['direct'] / rates['gateway']:.1f} times the gateway's rate")


def _run(target: Target, clients: int, seconds: float) -> Run:
    before = target.processor_seconds()
    found = _job(target, clients, seconds)
    cost = 1000 * (target.processor_seconds() - before) / found["all"]
    return Run(found["p50"], found["p99"], found["timed"] / seconds, cost)


def _job(target: Target, clients: int, seconds: float) -> dict[str, float]:
    job = {"url": target.url, "model": target.model, "key": target.key, "clients": clients, "seconds": seconds}
    command = [sys.executable, __file__, "--clients", json.dumps(job)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


async def _asked(url: str, model: str, key: str | None, clients: int, seconds: float) -> dict[str, float]:
    """Ask from so many clients, and return how long answers took once all were warm, in milliseconds."""
    milliseconds: list[float] = []
    total = 0
    warm = time.perf_counter() + WARM_UP
    end = warm + seconds
    where = urlsplit(url)
    head = f"POST {where.path}/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    if key:
        head += f"authorization: Bearer {key}\r\n"

    async def client() -> None:
        nonlocal total
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        while (began := time.perf_counter()) < end:
            question = f"{uuid.uuid4().hex} ann.other@example.com {FILLER * 9}end"
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0})
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            reply = json.loads(await reader.readexactly(length))
            assert reply["choices"][0]["message"]["content"] == answer(question), reply
            total += 1
            if began >= warm:
                milliseconds.append(1000 * (time.perf_counter() - began))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    percentiles = statistics.quantiles(milliseconds, n=100)
    return {"p50": percentiles[49], "p99": percentiles[98], "timed": len(milliseconds), "all": total}


@contextmanager
def _litellm(environment: Path, stub: Upstream, folder: Path) -> Iterator[Target]:
    """Run LiteLLM's proxy, one worker, without a database."""
    upstream = {"model": f"openai/{STUB}", "api_base": stub.url, "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstream}],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"telemetry": False},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [environment / "bin/litellm", "--config", folder / "litellm.yaml", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1"]
    offline = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DO_NOT_TRACK": "1"}
    offline.pop("PYTHONPATH", None)
    with (folder / "litellm.log").open("w") as log:
        process = psutil.Popen([str(part) for part in command], env=offline, cwd=folder, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not _alive(url):
            assert process.poll() is None, Path(log.name).read_text()[-2000:]
            assert time.monotonic() < deadline, "LiteLLM did not start"
            time.sleep(0.2)
        yield Target("litellm", f"{url}/v1", MODEL, MASTER_KEY, psutil.Process(process.pid))
    finally:
        process.kill()
        process.wait()


def _alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):  # noqa: S310
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
