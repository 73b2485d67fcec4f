"""One engine, asked as often and as long as the ladder's settings say."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count

from prometheus_client import Counter

from forgeline.config.schema.serve.ladder import Ladder as Settings
from forgeline.serving.engines import (
    Engine,
    EngineFailed,
    EngineUnavailable,
    GenerationRequest,
    Piece,
    RequestRefused,
)
from forgeline.serving.gateway.breaker import Breaker
from forgeline.serving.gateway.exchange import Asking


class EngineLate(EngineFailed, TimeoutError):
    """The engine gave nothing, or not all, in the time there was."""


class Attempts:
    """One engine behind its breaker; `tries` counts what came of each try."""

    def __init__(self, name: str, engine: Engine, settings: Settings, tries: Counter) -> None:
        self.name = name
        self.engine = engine
        self.breaker = Breaker(settings.breaker)
        self._settings = settings
        self._tries = tries

    def suits(self, request: GenerationRequest) -> bool:
        """Whether the engine has the adapter and the logprobs that a request asks for."""
        has_model = request.model is None or request.model in self.engine.models
        return has_model and (request.logprobs is None or self.engine.gives_logprobs)

    async def reply(
        self, request: GenerationRequest, begin_by: float, end_by: float, stream: bool, asking: Asking
    ) -> AsyncGenerator[Piece]:
        """Yield the reply, and note in `asking` how that went; times are the event loop's.

        Without a stream nothing is yielded before all is there, as one piece, so that an engine that breaks half-way
        can be asked again. The wait between tries is drawn from 0 to a doubling bound (full jitter; Brooker,
        "Exponential backoff and jitter", AWS, 2015).

        Raises:
            RequestRefused, EngineUnavailable, EngineFailed: as the last try did.
        """
        for tried in count(1):
            begun = False
            try:
                async with aclosing(self._try(request, begin_by, end_by, asking)) as pieces:
                    if not stream:
                        yield Piece.joined([piece async for piece in pieces])
                        return
                    async for piece in pieces:
                        begun = True
                        yield piece
                    return
            except (EngineUnavailable, EngineFailed) as fault:
                wait = random.uniform(0, self._settings.backoff * 2 ** (tried - 1))
                late = asyncio.get_running_loop().time() + wait >= begin_by
                asked = isinstance(fault, EngineUnavailable) and fault.retry_after is not None  # to be left alone
                if begun or late or asked or not self.engine.ready or tried == self._settings.tries:
                    raise
            asking.faults += 1
            await asyncio.sleep(wait)

    async def _try(
        self, request: GenerationRequest, begin_by: float, end_by: float, asking: Asking
    ) -> AsyncGenerator[Piece]:
        if not self.engine.ready:
            self._tries.labels(self.name, "not_ready").inc()
            raise EngineUnavailable(f"The engine `{self.name}` is not ready.")
        call = self.breaker.call()
        if call is None:
            self._tries.labels(self.name, "resting").inc()
            rest = self._settings.breaker.rest
            raise EngineUnavailable(f"The engine `{self.name}` has failed too often and is left alone for now.", rest)
        well: bool | None = None
        outcome = "left"
        try:
            async with aclosing(self._pieces(request, begin_by, end_by)) as pieces:
                started, in_time = time.monotonic(), True
                first = True
                async for piece in pieces:
                    if first:
                        first, in_time = False, time.monotonic() - started <= self._settings.breaker.slow
                        call.begun(in_time)
                        asking.first = asking.age()
                    if piece.finish_reason:
                        asking.last = asking.age()
                    yield piece
                    # A caller that reads slowly is no fault of the engine's.
                    if not piece.finish_reason and asyncio.get_running_loop().time() >= end_by:
                        raise TimeoutError("The request took longer than limits.request_timeout.")
            well, outcome = in_time, "ok" if in_time else "slow"
        except RequestRefused:
            well, outcome = True, "refused"
            raise
        except (EngineUnavailable, EngineFailed) as fault:
            well, outcome = False, {EngineUnavailable: "unavailable", EngineLate: "late"}.get(type(fault), "failed")
            raise
        finally:
            call.ended(well)
            self._tries.labels(self.name, outcome).inc()

    async def _pieces(self, request: GenerationRequest, begin_by: float, end_by: float) -> AsyncGenerator[Piece]:
        """Yield what the engine gives; raise EngineLate where it is silent for too long."""
        until, over = begin_by, False
        async with aclosing(self.engine.generate(request)) as reply:
            while True:
                try:
                    async with asyncio.timeout_at(until) as bound:
                        piece = await anext(reply, None)
                except TimeoutError:
                    if not bound.expired():
                        raise
                    if over:
                        return
                    raise EngineLate(f"The engine `{self.name}` did not answer in time.") from None
                if piece is None:
                    if over:
                        return
                    raise EngineFailed(f"The engine `{self.name}` broke its reply off.")
                yield piece
                over = piece.finish_reason is not None
                until = min(asyncio.get_running_loop().time() + self._settings.patience, end_by)
