"""A reply to a client that may hang up: whole, or as server-sent events, then an error or the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Send

from forgeline.serving.engines import Piece
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion

UNREAD_SECONDS = 60.0  # how long a client may leave a stream unread


class EventStream(StreamingResponse):
    """Server-sent events; they end with the connection, or with a client that does not read."""

    def __init__(self, events: AsyncGenerator[str], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            events, headers={"Cache-Control": "no-cache", **(headers or {})}, media_type="text/event-stream"
        )
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send all events."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(UNREAD_SECONDS):
                await send(message)

        async with aclosing(self._events):
            await super().stream_response(send_in_time)


async def events(
    completion: Completion, body: ChatRequest, first: Piece, reply: AsyncGenerator[Piece]
) -> AsyncGenerator[str]:
    """Yield the events of a reply whose first piece is there; an ApiError in it becomes the last event."""
    yield _event(completion.chunk(first, {"role": "assistant", "content": first.text}))
    last = first
    try:
        async with aclosing(reply):
            async for last in reply:
                if last.text or last.finish_reason or last.logprobs:
                    yield _event(completion.chunk(last, {"content": last.text} if last.text else {}))
    except ApiError as fault:
        yield _event(fault.body())
        return
    if body.stream_options is not None and body.stream_options.include_usage:
        yield _event(completion.usage_chunk(last.usage))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {orjson.dumps(value).decode()}\n\n"


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
