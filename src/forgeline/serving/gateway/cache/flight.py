"""One reply that several ask for at once: asked once, heard by all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing

from forgeline.serving.engines import Piece


class Flights:
    """The replies that are on their way, each by what asks for it."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether somebody asks for this now."""
        return key in self._flights

    async def join(self, key: Hashable, ask: Callable[[], AsyncGenerator[Piece]]) -> AsyncGenerator[Piece]:
        """Yield the reply from its beginning; ask for it if nobody does."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight(ask())
        flight.listeners += 1
        try:
            async with aclosing(flight.hear()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            flight.listeners -= 1
            if flight.over or not flight.listeners:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                await flight.end()


class Flight:
    """One reply on its way; who asked first may leave, it ends when nobody listens."""

    def __init__(self, reply: AsyncGenerator[Piece]) -> None:
        self.listeners = 0
        self.over = False
        self._pieces: list[Piece] = []
        self._fault: Exception | None = None
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._fly(reply))

    async def hear(self) -> AsyncGenerator[Piece]:
        """Yield all pieces, those that have come already first; raise what ended them."""
        heard = 0
        while True:
            while heard < len(self._pieces):
                heard += 1
                yield self._pieces[heard - 1]
            if self.over:
                if self._fault:
                    raise self._fault
                return
            await self._news.wait()

    async def end(self) -> None:
        """Cancel what has not come, and wait until the engine knows."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _fly(self, reply: AsyncGenerator[Piece]) -> None:
        try:
            async with aclosing(reply):
                async for piece in reply:
                    self._pieces.append(piece)
                    self._tell()
        except Exception as fault:  # every listener is told
            self._fault = fault
        finally:
            self.over = True
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
