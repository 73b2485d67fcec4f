"""What is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Traffic:
    """What a graceful shutdown watches, and how it ends what does not end by itself."""

    in_flight: int = 0
    draining: bool = False
    over: bool = False
    _waits: set[asyncio.Timeout] = field(default_factory=set)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Raise TimeoutError if a wait lasts until the drain is over."""
        async with asyncio.timeout_at(0 if self.over else None) as bound:
            self._waits.add(bound)
            try:
                yield
            finally:
                self._waits.discard(bound)

    def cut_off(self) -> None:
        """End every wait now."""
        self.over = True
        for bound in self._waits:
            bound.reschedule(0)
