"""What answers: the engine; when it fails another one, an older answer, a written one, or a person."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from forgeline.config.schema.serve.ladder import Ladder as Settings
from forgeline.serving.engines import (
    Engine,
    EngineFailed,
    EngineUnavailable,
    Piece,
    RequestRefused,
    Usage,
)
from forgeline.serving.gateway.attempts import Attempts
from forgeline.serving.gateway.cache import Cache
from forgeline.serving.gateway.cache.flight import Flights
from forgeline.serving.gateway.exchange import Asking, Exchange
from forgeline.serving.gateway.store import StoreFailed

logger = logging.getLogger("forgeline.gateway")
FOR_ENGINES = 0.95  # of a request's time; in the rest, rungs without an engine still answer
STATES = {"closed": 0, "half-open": 1, "open": 2}
Rung = Callable[[Exchange, float, bool], AsyncGenerator[Piece]]


class Ladder:
    """The rungs of `serve.ladder`; the first of `engines` is the deployment's own, `timeout` a request's seconds.

    `open_ticket` puts an exchange in the review queue and returns its ticket.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        settings: Settings,
        timeout: float,
        cache: Cache,
        open_ticket: Callable[[Exchange], Awaitable[str]],
        registry: CollectorRegistry,
    ) -> None:
        tries = Counter("forgeline_engine_tries", "What came of asking.", ["engine", "outcome"], registry=registry)
        state = Gauge("forgeline_breaker", "0 closed, 1 half-open, 2 open.", ["engine"], registry=registry)
        self._answered = Counter("forgeline_rungs", "Requests by what answered.", ["rung"], registry=registry)
        asked = [Attempts(name, engine, settings, tries) for name, engine in engines.items()]
        asked = asked if "other" in settings.rungs else asked[:1]
        for attempts in asked:
            state.labels(attempts.name).set_function(partial(_state, attempts))
        own, *others = (partial(self._engine, attempts, len(asked) - at) for at, attempts in enumerate(asked))
        climbs: dict[str, list[Rung]] = {
            "engine": [own],
            "other": [partial(self._other, other) for other in others],
            "cached": [self._stale],
            "template": [self._template],
            "human": [self._human],
        }
        self._asked = asked
        self._rungs = [climb for rung in settings.rungs for climb in climbs[rung]]
        self._settings = settings
        self._timeout = timeout
        self._cache = cache
        self._flights = Flights()
        self._open_ticket = open_ticket

    @property
    def can_answer(self) -> bool:
        """Whether some request could be answered: by an engine that is not given up, or by a rung without one."""
        rungs = self._settings.rungs
        engines = any(attempts.engine.failure is None for attempts in self._asked)
        return engines or "template" in rungs or "human" in rungs or ("cached" in rungs and self._cache.holds_answers)

    async def answer(self, exchange: Exchange, cached: bool = True) -> AsyncGenerator[Piece]:
        """Yield the first answer there is, and name in `exchange.rung` who gave it; without `cached`, a fresh one.

        Raises:
            RequestRefused: if the deployment's own engine refuses the request: no other is asked.
            TimeoutError: if the request's time is over.
            EngineUnavailable, EngineFailed: the last one's, if no rung answers, or if a stream breaks.
        """
        if cached and (hit := await self._cache.find(exchange)):
            yield self._given(exchange, hit.rung, hit.reply)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout - exchange.age()
        fault: EngineUnavailable | EngineFailed = EngineUnavailable("No rung of serve.ladder can answer this request.")
        for climb in self._rungs:
            begun = False
            try:
                async with aclosing(climb(exchange, deadline, cached)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                if begun:
                    return
            except (EngineUnavailable, EngineFailed) as found:
                if begun:
                    raise
                fault = found
        raise fault

    async def trial(self, exchange: Exchange, cached: bool = True) -> AsyncGenerator[Piece]:
        """Yield what the deployment's own engine answers, or has answered; another arm has the rest of the time.

        Raises:
            RequestRefused, EngineUnavailable, EngineFailed: if it does not.
        """
        if cached and (hit := await self._cache.find(exchange)):
            yield self._given(exchange, hit.rung, hit.reply)
            return
        deadline = asyncio.get_running_loop().time() + self._timeout - exchange.age()
        if not exchange.stream:  # it can be asked for anew to the end
            deadline -= (self._timeout - exchange.age()) / 2
        begun = False
        async with aclosing(self._engine(self._asked[0], 2, exchange, deadline, cached)) as pieces:
            async for piece in pieces:
                begun = True
                yield piece
        if not begun:
            raise EngineUnavailable(f"The engine `{self._asked[0].name}` has not what this request asks for.")

    async def _engine(
        self, attempts: Attempts, engines_left: int, exchange: Exchange, deadline: float, cached: bool
    ) -> AsyncGenerator[Piece]:
        request = exchange.request
        if not attempts.suits(request):
            return
        now = asyncio.get_running_loop().time()
        until = deadline - self._timeout * (1 - FOR_ENGINES)
        begin_by = now + min(self._settings.patience, (until - now) / engines_left)
        end_by = deadline if exchange.stream else until
        exchange.asking = Asking()
        ask = partial(attempts.reply, request, begin_by, end_by, exchange.stream, exchange.asking)
        if cached and self._cache.shares(request):
            key = (attempts.name, exchange.stream, self._cache.key(exchange))
            if key in self._flights:
                self._cache.looks.labels("shared").inc()
            reply = self._flights.join(key, ask)
        else:
            reply = ask()
        begun = False
        async with aclosing(reply) as pieces:
            async for piece in pieces:
                yield piece if begun else self._given(exchange, attempts.name, piece)
                begun = True

    async def _other(self, engine: Rung, exchange: Exchange, deadline: float, cached: bool) -> AsyncGenerator[Piece]:
        """Ask another engine; what only it refuses is no fault of the request."""
        try:
            async with aclosing(engine(exchange, deadline, cached)) as pieces:
                async for piece in pieces:
                    yield piece
        except RequestRefused as refusal:
            raise EngineUnavailable(str(refusal)) from refusal

    async def _stale(self, exchange: Exchange, deadline: float, cached: bool) -> AsyncGenerator[Piece]:
        if cached and (hit := self._cache.stale(exchange)):
            yield self._given(exchange, hit.rung, hit.reply)

    async def _template(self, exchange: Exchange, deadline: float, cached: bool) -> AsyncGenerator[Piece]:
        asked = [message["content"] for message in exchange.request.messages if message["role"] == "user"]
        for template in self._settings.templates:
            if not template.words or any(_names(word, asked[-1]) for word in template.words if asked):
                yield self._given(exchange, "template", Piece(template.text, Usage(0, 0), "stop"))
                return

    async def _human(self, exchange: Exchange, deadline: float, cached: bool) -> AsyncGenerator[Piece]:
        try:
            async with asyncio.timeout_at(deadline):
                exchange.ticket = await self._open_ticket(exchange)
        except (StoreFailed, TimeoutError) as fault:
            logger.warning("no ticket could be opened: %s", fault or "the request's time is over")
            return
        text = self._settings.ticket_text.replace("{ticket}", exchange.ticket)
        yield self._given(exchange, "queue", Piece(text, Usage(0, 0), "stop"))

    def _given(self, exchange: Exchange, rung: str, first: Piece) -> Piece:
        exchange.rung = rung
        self._answered.labels(rung).inc()
        return first


def _state(attempts: Attempts) -> int:
    return STATES[attempts.breaker.state]


def _names(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None
