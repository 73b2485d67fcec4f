"""What Ray's policy is told: how late first tokens are, without waking what sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from test_remote import REPLY, remote, says

from forgeline.serving.engines import GenerationRequest, Piece, Usage
from forgeline.serving.engines.timed import Timed


class Late:
    ready = True

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        await asyncio.sleep(request.temperature)
        for text in ("a", "b"):
            yield Piece(text, Usage(1, 1), "stop" if text == "b" else None)
            await asyncio.sleep(0.1)


def test_only_first_tokens_of_the_window_are_remembered() -> None:
    async def main() -> None:
        inner: Any = Late()
        long, short = Timed(inner, window=60), Timed(inner, window=0.01)
        assert long.ready
        assert long.first_token() == 0
        for engine in (long, short):
            pieces = [piece async for piece in engine.generate(GenerationRequest([], 1, 0.05))]
            assert [piece.text for piece in pieces] == ["a", "b"]
        assert 0.05 <= long.first_token() < 10
        assert short.first_token() == 0  # it came more than a tenth of a second ago

    asyncio.run(main())


def test_what_may_sleep_is_looked_at_elsewhere_once_it_was_ready() -> None:
    async def main() -> None:
        async with remote(says(REPLY), quiet="/-/healthz") as (engine, server):
            server.health = {"/-/healthz": b"success"}  # nothing that would wake it is there any more
            await engine._check()
            assert engine.ready
            server.health = {}
            await engine._check()
            assert not engine.ready

    asyncio.run(main())
