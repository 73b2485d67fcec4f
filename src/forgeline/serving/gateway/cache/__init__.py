"""Answers that are given again: exactly the same question, or one that means the same; never across tenants.

All is as masked as the request was: a tag in an answer stands for the value of whoever asks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import orjson
from cachetools import TTLCache
from prometheus_client import CollectorRegistry, Counter

from forgeline.config.schema.serve.ladder import Cache as Settings
from forgeline.serving.engines import GenerationRequest, Piece
from forgeline.serving.gateway.exchange import Exchange

if TYPE_CHECKING:
    from forgeline.serving.gateway.cache.semantic import Semantic

OVERHEAD = 1000  # bytes of an entry beside its texts


@dataclass(frozen=True)
class Hit:
    """An answer and how it was found: `cache`, `semantic` or `stale`."""

    rung: str
    reply: Piece


class Cache:
    """The answers of one bundle, whose digest is `identity`; `engine` is the one whose answers are kept."""

    def __init__(self, settings: Settings, identity: str, engine: str, registry: CollectorRegistry) -> None:
        self._identity = identity
        self._engine = engine
        self._on = settings.bytes > 0
        self._exact: TTLCache[bytes, Piece] = TTLCache(settings.bytes, settings.seconds, getsizeof=_weight)
        self._last: TTLCache[bytes, Piece] = TTLCache(settings.bytes, settings.stale_seconds, getsizeof=_weight)
        self._semantic: Semantic | None = None
        if self._on and settings.semantic:
            from forgeline.serving.gateway.cache.semantic import Semantic

            self._semantic = Semantic(settings.semantic, settings.bytes, settings.seconds)
        self.looks = Counter("forgeline_cache", "Looks into the cache.", ["result"], registry=registry)

    def shares(self, request: GenerationRequest) -> bool:
        """Whether asking twice would give the same answer, so that asking once is enough."""
        return self._on and request.logprobs is None and (request.temperature == 0 or request.seed is not None)

    def key(self, exchange: Exchange) -> bytes:
        """Return what an answer depends on: tenant, bundle, model, messages as masked, and all of the sampling."""
        request = exchange.request
        return self._digest(exchange, request.temperature, request.top_p, request.seed)

    async def find(self, exchange: Exchange) -> Hit | None:
        """Return the answer to the same question, or to one that means the same."""
        if not self.shares(exchange.request):
            return None
        if reply := self._exact.get(self.key(exchange)):
            self.looks.labels("hit").inc()
            return Hit("cache", reply)
        if self._semantic and (reply := await self._semantic.find(*self._meant(exchange))):
            self.looks.labels("semantic").inc()
            return Hit("semantic", reply)
        self.looks.labels("miss").inc()
        return None

    def stale(self, exchange: Exchange) -> Hit | None:
        """Return the last good answer to the same question, however it was sampled."""
        reply = self._last.get(self._digest(exchange))
        return Hit("stale", reply) if reply else None

    @property
    def holds_answers(self) -> bool:
        """Whether there is one that may stand in where no engine answers."""
        return len(self._last) > 0

    async def keep(self, exchange: Exchange) -> None:
        """Keep a reply of the deployment's own engine that ended, and that the guards left as it was."""
        changed = any(verdict.side == "out" and verdict.action in ("mask", "block") for verdict in exchange.verdicts)
        ended = exchange.finish_reason in ("stop", "length")
        if changed or not ended or exchange.rung != self._engine or exchange.usage is None:
            return
        reason = cast(Literal["stop", "length"], exchange.finish_reason)
        reply = Piece(exchange.reply, exchange.usage, reason, facts=exchange.facts)
        if _weight(reply) > self._exact.maxsize or exchange.request.logprobs is not None:
            return
        self._last[self._digest(exchange)] = reply
        if self.shares(exchange.request):
            self._exact[self.key(exchange)] = reply
            if self._semantic:
                await self._semantic.keep(*self._meant(exchange), reply)

    def _digest(self, exchange: Exchange, *sampling: float | None) -> bytes:
        request = exchange.request
        parts = (request.model, request.messages, request.max_tokens, request.stop, sampling)
        return hashlib.sha256(orjson.dumps((exchange.caller.tenant, self._identity, *parts))).digest()

    def _meant(self, exchange: Exchange) -> tuple[bytes, str]:
        """Return what must be the same but for the last message, and that message."""
        request = exchange.request
        before = (request.model, request.messages[:-1], request.messages[-1]["role"], request.max_tokens, request.stop)
        sampling = (request.temperature, request.top_p, request.seed)
        asked = orjson.dumps((exchange.caller.tenant, self._identity, *before, *sampling))
        return hashlib.sha256(asked).digest(), request.messages[-1]["content"]


def _weight(reply: Piece) -> int:
    return OVERHEAD + reply.size
