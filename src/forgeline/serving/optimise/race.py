"""What variants cost, side by side: tokens a second, processor time, memory, in rounds that take turns."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from forgeline.config.schema.optimise import Optimise
from forgeline.errors import ServingError
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.engines.supervised import Supervised

Messages = list[dict[str, str]]
LOOK_EVERY = 0.2  # seconds


class Cost(BaseModel):
    """What one variant took: `rates` are tokens a second by number of clients, one for each round.

    `core_rates` are tokens of one processor's second in the same rounds, which other work on the machine changes less.
    `memory` is the peak of all its processes, in bytes.
    """

    model_config = ConfigDict(frozen=True)
    rates: dict[int, list[float]]
    core_rates: dict[int, list[float]]
    memory: int

    def rate(self, clients: int) -> float:
        """Return the median of tokens a second."""
        return statistics.median(self.rates[clients])

    def core_rate(self, clients: int) -> float:
        """Return the median of tokens a processor's second."""
        return statistics.median(self.core_rates[clients])


async def race(
    engines: Mapping[str, Supervised], prompts: Sequence[Messages], settings: Optimise
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Return what each engine cost, and of those that did not answer, why.

    All are loaded, each in its own processes, and warmed up; then they take turns, in another order each round.
    """
    rates: dict[str, dict[int, list[float]]] = {name: {} for name in engines}
    cores: dict[str, dict[int, list[float]]] = {name: {} for name in engines}
    failed: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for engine in engines.values():
            await engine.start()
            stack.push_async_callback(engine.close)
        for name, engine in engines.items():
            try:
                await _ready(engine)
                await _asked(engine, prompts[:2], 2, settings.max_tokens)
            except ServingError as fault:
                failed[name] = str(fault)
        names = [name for name in engines if name not in failed]
        for number in range(settings.rounds):
            turn = number % len(names) if names else 0
            for name in names[turn:] + names[:turn]:
                for clients in settings.clients:
                    engine = engines[name]
                    share = prompts if clients > 1 else prompts[: max(2, len(prompts) // 4)]
                    computed, began = _core_seconds(engine), time.perf_counter()
                    tokens = await _asked(engine, share, clients, settings.max_tokens)
                    took, computed = time.perf_counter() - began, _core_seconds(engine) - computed
                    rates[name].setdefault(clients, []).append(tokens / took)
                    cores[name].setdefault(clients, []).append(tokens / max(computed, 1e-9))
        costs = {
            name: Cost(rates=rates[name], core_rates=cores[name], memory=_peak_memory(engines[name])) for name in names
        }
    return costs, failed


async def _ready(engine: Supervised) -> None:
    while not engine.ready:
        if engine.failure is not None:
            raise engine.failure
        await asyncio.sleep(LOOK_EVERY)


async def _asked(engine: Supervised, prompts: Sequence[Messages], clients: int, max_tokens: int) -> int:
    """Return how many tokens the greedy replies have, asked by so many clients one after the other."""
    waiting = list(prompts)

    async def client() -> int:
        tokens = 0
        while waiting:
            request = GenerationRequest(waiting.pop(), max_tokens, 0.0)
            async with aclosing(engine.generate(request)) as reply:
                tokens += [piece async for piece in reply][-1].usage.completion_tokens
        return tokens

    return sum(await asyncio.gather(*(client() for _ in range(clients))))


def _processes(engine: Supervised) -> list[psutil.Process]:
    assert engine.pid is not None  # noqa: S101
    children: list[psutil.Process] = psutil.Process(engine.pid).children(recursive=True)
    return children


def _core_seconds(engine: Supervised) -> float:
    times = [process.cpu_times() for process in _processes(engine)]
    return float(sum(each.user + each.system for each in times))


def _peak_memory(engine: Supervised) -> int:
    """Return the sum of the processes' peaks where the system tells them (Linux), else of what they hold now."""
    total = 0
    for process in _processes(engine):
        peak = process.memory_info().rss
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = next((int(line.split()[1]) * 1024 for line in status.splitlines() if "VmHWM" in line), peak)
        total += peak
    return total
