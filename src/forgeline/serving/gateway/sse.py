"""A reply as server-sent events: a chunk for each piece, then an error or the end."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from forgeline.serving.engines import Piece
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache"}


async def events(
    completion: Completion, body: ChatRequest, first: Piece, reply: AsyncGenerator[Piece]
) -> AsyncIterator[str]:
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
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
