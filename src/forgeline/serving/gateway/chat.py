"""The way of one chat request: who asks, how much, what goes in, an answer, what goes out, what is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request

from forgeline.serving.engines import (
    Engine,
    EngineFailed,
    EngineUnavailable,
    GenerationRequest,
    Piece,
    RequestRefused,
)
from forgeline.serving.gateway.door import Traffic
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.telemetry.metrics import Metrics


async def pieces(
    engine: Engine, request: GenerationRequest, timeout: float, traffic: Traffic, metrics: Metrics
) -> AsyncGenerator[Piece]:
    """Yield the reply; raise ApiError for whatever comes instead."""
    started, first = time.perf_counter(), True
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with aclosing(engine.generate(request)) as reply:
            while True:
                async with traffic.waiting(deadline):
                    piece = await anext(reply, None)
                if piece is None:
                    return
                if first:
                    metrics.first_token_seconds.observe(time.perf_counter() - started)
                    metrics.count_tokens("prompt", piece.usage.prompt_tokens, request.model)
                    first = False
                metrics.count_tokens("completion", 1, request.model)
                yield piece
    except TimeoutError:
        if traffic.over:
            raise ApiError(503, "The server shut down before the reply was complete.", "draining") from None
        raise ApiError(504, "The request took longer than limits.request_timeout.", "timeout") from None
    except RequestRefused as refusal:
        raise ApiError(400, str(refusal), "context_or_template", "messages") from None
    except EngineUnavailable as fault:
        raise ApiError(503, str(fault), "unavailable", retry_after=5) from fault
    except EngineFailed as fault:
        raise ApiError(500, str(fault), "engine_failed") from fault


async def whole(reply: AsyncGenerator[Piece], http: Request) -> list[Piece]:
    """Return all pieces of a reply; give up as soon as the client hangs up."""
    gone = asyncio.ensure_future(_hung_up(http))
    collected = asyncio.ensure_future(_collected(reply))
    try:
        await asyncio.wait((collected, gone), return_when=asyncio.FIRST_COMPLETED)
        if not collected.done():
            raise ApiError(499, "The client closed the connection.", "client_closed")
        return collected.result()
    finally:
        gone.cancel()
        if not collected.done():
            collected.cancel()
            await asyncio.wait((collected,))


async def _collected(reply: AsyncGenerator[Piece]) -> list[Piece]:
    async with aclosing(reply):
        return [piece async for piece in reply]


async def _hung_up(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
