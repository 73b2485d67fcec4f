"""Our engines beside `mlflow models serve` and `transformers serve --continuous-batching`, each through its HTTP door.

Command: python benchmarks/engine_speed.py
The base model of configs/train.yaml in the same precision, test prompts, greedy, 64 new tokens, one client and eight.
Every server is a process of its own with its own settings for threads; while one is measured, the others are stopped.
Several rounds in turn; medians are printed of reply tokens a second, of the time to the first token of a stream, and of
our rate over each peer's.
Where other work shares the machine, the ratio of tokens a core-second is the steadier one, though it does not see that
a server leaves a core idle. Where its exporter's environment is (docs/engines.md), `openvino` serves the same bundle in
weights of 8 bits. Bars at eight clients: 5 times mlflow and 2 times transformers; `openvino` 3 times our other engine.
Needs `forgeline data`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
PROJECT = Path(__file__).parent.parent
SEED, TOKENS, CLIENTS = 17, 64, 8
BARS = {
    ("forgeline", "mlflow"): 5.0,
    ("forgeline", "transformers serve"): 2.0,
    ("openvino", "forgeline"): 3.0,
    ("openvino", "mlflow"): None,
    ("openvino", "transformers serve"): None,
}
Messages = list[dict[str, str]]


@dataclass
class Server:
    """How a server is started and asked; what was measured is added to it, by number of clients."""

    command: list[str]
    path: str
    model: str
    ready: str
    streams: bool = True
    port: int = 0
    rates: dict[int, list[float]] = field(default_factory=lambda: {1: [], CLIENTS: []})
    first: dict[int, list[float]] = field(default_factory=lambda: {1: [], CLIENTS: []})
    a_core: list[float] = field(default_factory=list)  # tokens a core-second at eight clients

    def ask(self, messages: Messages) -> int:
        """Return how many tokens the reply has."""
        answer = json.load(self._post(messages, stream=False))
        whole = answer[0] if isinstance(answer, list) else answer  # mlflow gives a list of one
        return int(whole["usage"]["completion_tokens"])

    def first_token(self, messages: Messages) -> float:
        """Return the seconds until a stream's first token; without streams, until the whole reply."""
        began = time.perf_counter()
        with self._post(messages, self.streams) as answer:
            for line in answer:
                chunk = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: {") else {}
                if not self.streams or any(choice["delta"].get("content") for choice in chunk.get("choices", [])):
                    seconds = time.perf_counter() - began
                    break
            answer.read()  # to its end, so that nothing of it is left when the next is asked
        return seconds

    def _post(self, messages: Messages, stream: bool) -> Any:
        body: dict[str, Any] = {"messages": messages, "max_tokens": TOKENS}
        if self.path != "/invocations":  # mlflow knows no temperature of zero, and is greedy unless told otherwise
            body |= {"model": self.model, "stream": stream, "temperature": 0.0}
        url = f"http://127.0.0.1:{self.port}{self.path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=300)  # noqa: S310


def servers(work: Path, precision: str) -> dict[str, Server]:
    """Return the servers to compare, ours first; another engine of ours is one more line."""
    import mlflow.transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from forgeline.config import load
    from forgeline.models import base_folder

    base = base_folder(load(PROJECT).train.model, PROJECT)
    parts = {"model": AutoModelForCausalLM.from_pretrained(base, dtype=precision)}
    parts["tokenizer"] = AutoTokenizer.from_pretrained(base)
    mlflow.transformers.save_model(parts, work / "mlflow", task="llm/v1/chat", pip_requirements=[])
    theirs = ["mlflow", "models", "serve", "--model-uri", str(work / "mlflow"), "--env-manager", "local", "--port"]
    batching = ["transformers", "serve", str(base), "--continuous-batching", "--device", "cpu", "--dtype", precision]
    chat = "/v1/chat/completions"
    made = bundled(work, precision)
    return {
        "forgeline": ours(work, made, "transformers"),
        **({"openvino": ours(work, made, "openvino")} if admitted(made) else {}),
        "mlflow": Server(theirs, "/invocations", "", "/health", streams=False),
        "transformers serve": Server([*batching, "--port"], chat, str(base), "/health"),
    }


def bundled(work: Path, precision: str) -> Path:
    """Return a bundle of an adapter that changes nothing."""
    from peft import LoraConfig, get_peft_model

    from forgeline.config import load
    from forgeline.models import load_base
    from forgeline.serving import bundle

    config = load(PROJECT, overrides=[f"train.dtype={precision}", "train.device=cpu"])
    untuned = load_base(config.train, PROJECT)
    adapted = get_peft_model(untuned.model, LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(work / "adapter")
    untuned.tokenizer.save_pretrained(work / "adapter")
    links = ("mlflow_run", "zenml_run", "data_digest", "git_revision", "config_digest")
    lineage = dict.fromkeys(links, "none") | {"model": "base", "version": "0"}
    return bundle.build(config, work / "adapter", lineage, work / "bundles")


def admitted(made: Path) -> bool:
    """Export a bundle for OpenVINO and say whether it may serve; its replies, which are poor anyway, may be any."""
    from forgeline.config import load
    from forgeline.config.schema.serve.engine import Openvino
    from forgeline.errors import ServingError
    from forgeline.serving.admission import admit

    anything = "policy.admission.bleu_keeps_up_with_bundle.margin=100"
    config = load(PROJECT, overrides=["evaluate.max_prompts=30", "evaluate.max_new_tokens=8", anything])
    try:
        return admit(config, made, Openvino(name="openvino"), []).refusal is None
    except ServingError as fault:
        print(f"openvino is left out: {fault}")
        return False


def ours(work: Path, made: Path, engine: str) -> Server:
    """Return one of our engines, serving a bundle."""
    settings = work / f"{engine}.json"
    settings.write_text(json.dumps({"engine": {"name": engine, "process": False}}), encoding="utf-8")
    command = [sys.executable, "-m", "forgeline.serving.engines.server", "--bundle", str(made)]
    return Server([*command, "--settings", str(settings), "--port"], "/v1/chat/completions", "base", "/readyz")


@contextmanager
def started(name: str, server: Server, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server in a process group of its own, wait until it has answered once, and end it at last."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    log = work / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*server.command, str(server.port)], cwd=PROJECT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not _answers(f"http://127.0.0.1:{server.port}{server.ready}"):
            if process.poll() is not None:
                sys.exit(f"{name} ended: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
            time.sleep(0.5)
        server.ask([{"role": "user", "content": "Hello"}])
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return True
    except OSError:
        return False


def measure(server: Server, process: int, prompts: list[Messages]) -> None:
    """Ask one after the other, then eight at a time; add rates and times to first tokens."""
    for clients, share in ((1, prompts[:2]), (CLIENTS, prompts)):
        with ThreadPoolExecutor(clients) as pool:
            began, computed = time.perf_counter(), _core_seconds(process)
            tokens = sum(pool.map(server.ask, share))
            server.rates[clients].append(tokens / (time.perf_counter() - began))
            rate = tokens / (_core_seconds(process) - computed)
            first = list(pool.map(server.first_token, share[:clients])) if server.streams else []
            server.first[clients] += first
    server.a_core.append(rate)


def _core_seconds(process: int) -> float:
    parent = psutil.Process(process)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main() -> None:
    """Compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2 * CLIENTS)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], help="default: this processor's faster one")
    given = parser.parse_args()
    from forgeline.evaluation.score import test_records
    from forgeline.models.load import fastest_precision

    records = test_records(PROJECT / "data/splits/test.jsonl", given.prompts, SEED)
    prompts = [record.prompt for record in records]
    precision = given.precision or fastest_precision()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        compared = servers(work, precision)
        processes = {}
        for name, server in compared.items():
            processes[name] = stack.enter_context(started(name, server, work))
            os.killpg(processes[name].pid, signal.SIGSTOP)
        for number in range(given.rounds):
            for name, server in compared.items():
                os.killpg(processes[name].pid, signal.SIGCONT)
                measure(server, processes[name].pid, prompts)
                os.killpg(processes[name].pid, signal.SIGSTOP)
                print(f"round {number + 1}  {name:<18}  {shown(server, lambda each: each[-1])}", flush=True)
    print(f"\n{precision}, {TOKENS} new tokens, medians of {given.rounds} rounds")
    for name, server in compared.items():
        print(f"{name:<18}  {shown(server, statistics.median)}")
    missed = False
    for (name, peer), bar in BARS.items():
        if name not in compared:
            continue
        mine, other = compared[name], compared[peer]
        ratio = ratio_of(mine.rates[CLIENTS], other.rates[CLIENTS])
        missed |= bar is not None and ratio < bar
        cores, told = ratio_of(mine.a_core, other.a_core), f" (bar {bar:g})" if bar else ""
        print(f"{name} / {peer} at {CLIENTS} clients: {ratio:.1f}{told}, of tokens a core-second {cores:.1f}")
    sys.exit(int(missed))


def ratio_of(mine: list[float], other: list[float]) -> float:
    """Return the median of our figures over another's, round by round."""
    return statistics.median(ours / theirs for ours, theirs in zip(mine, other, strict=True))


def shown(server: Server, pick: Callable[[list[float]], float]) -> str:
    """Return a server's figures at one client and at eight."""
    parts = []
    for clients in (1, CLIENTS):
        first = f"{pick(server.first[clients]):.2f} s" if server.streams else "(no streams)"
        parts.append(f"{clients} clients: {pick(server.rates[clients]):5.0f} tokens/s, first token {first}")
    return "   ".join(parts)


if __name__ == "__main__":
    main()
