"""An engine that does what it is told, and the ladder around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from prometheus_client import CollectorRegistry

from forgeline.config.schema.serve.ladder import Cache as CacheSettings
from forgeline.config.schema.serve.ladder import Ladder as LadderSettings
from forgeline.serving.engines import GenerationRequest, Piece, Usage
from forgeline.serving.gateway.cache import Cache
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.ladder import Ladder

HANG = "hang"
GOOD = ("Good ", "day.")


class Scripted:
    """Goes through one script a call, the last one for ever; a script is texts, a fault, or HANG."""

    failure = None
    last_piece = 0.0
    depth = 0

    def __init__(self, *scripts: tuple[Any, ...], models: tuple[str, ...] = (), gives_logprobs: bool = False) -> None:
        self.name = "scripted"
        self.ready = True
        self.models = models
        self.gives_logprobs = gives_logprobs
        self.asked: list[GenerationRequest] = []
        self.cancelled = 0
        self.go = asyncio.Event()  # a HANG is over once this is set
        self._scripts = scripts or (GOOD,)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        self.asked.append(request)
        script = self._scripts[min(len(self.asked), len(self._scripts)) - 1]
        try:
            for count, step in enumerate(script, 1):
                if isinstance(step, Exception):
                    raise step
                if step == HANG:
                    await self.go.wait()
                    continue
                yield Piece(step, Usage(3, count), "stop" if count == len(script) else None)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise


class Scene:
    """A ladder over scripted engines, with short waits."""

    def __init__(self, *engines: Scripted, timeout: float = 5, cache: Any = None, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.tickets: list[Exchange] = []
        self.cache = Cache(CacheSettings.model_validate(cache or {}), "digest", "own", self.registry)
        ladder = LadderSettings.model_validate({"backoff": 0.001, **settings})
        names = ("own", "second", "third")
        self.ladder = Ladder(
            dict(zip(names, engines, strict=False)), ladder, timeout, self.cache, self._ticket, self.registry
        )

    async def _ticket(self, exchange: Exchange) -> str:
        self.tickets.append(exchange)
        return f"T-{len(self.tickets)}"

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0

    async def ask(self, exchange: Exchange, cached: bool = True) -> str:
        """Return the whole answer, kept as the gateway keeps it."""
        pieces = [piece async for piece in self.ladder.answer(exchange, cached)]
        exchange.reply = "".join(piece.text for piece in pieces)
        exchange.usage, exchange.finish_reason = pieces[-1].usage, pieces[-1].finish_reason
        if cached:
            await self.cache.keep(exchange)
        return exchange.reply


def exchange(
    question: str = "Hello", tenant: str = "a", stream: bool = False, temperature: float = 0, **request: Any
) -> Exchange:
    messages = [{"role": "system", "content": "You reply."}, {"role": "user", "content": question}]
    asked = GenerationRequest(messages, max_tokens=8, temperature=temperature, **request)
    return Exchange("id", Caller("key", tenant, frozenset({"caller"})), asked, stream)


async def until(condition: Callable[[], Any]) -> None:
    """Let the others run until something is true."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
