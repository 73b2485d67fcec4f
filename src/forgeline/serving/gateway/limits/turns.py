"""Whose turn it is: so many requests at once, a bounded queue for the others, fair between keys.

Within a key the first to come is the first served; keys take turns. When the queue is full, the key with the longest
line loses its last request to one of a shorter line (P. McKenney, Stochastic Fairness Queueing, 1990).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from forgeline.serving.gateway.protocol import ApiError

WEIGHT = 0.1  # of the newest request in the mean service time
Turn = asyncio.Future[None]


class Turns:
    """`slots` turns at once; up to `longest` requests wait, each at most `patience` seconds."""

    def __init__(self, slots: int, longest: int, patience: float) -> None:
        self._slots = slots
        self._longest = longest
        self._patience = patience
        self._running: Counter[str] = Counter()
        self._bounds: dict[str, int | None] = {}  # of the keys that run or wait
        self._lines: OrderedDict[str, deque[Turn]] = OrderedDict()  # the key at the front is the next
        self._background: OrderedDict[str, deque[Turn]] = OrderedDict()
        self.service_seconds = 0.0  # the moving mean

    @property
    def depth(self) -> int:
        """How many requests wait, those in the background left out."""
        return sum(map(len, self._lines.values()))

    @property
    def ongoing(self) -> int:
        """How many requests wait or have their turn; of those in the background only the latter."""
        return self.depth + self._running.total()

    @asynccontextmanager
    async def turn(self, key: str, bound: int | None, background: bool) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; what is in the background waits without bound, until nobody else does.

        Raises:
            ApiError: 429 `queue_full`, 503 `queue_timeout`.
        """
        self._bounds[key] = bound
        mine: Turn = asyncio.get_running_loop().create_future()
        lines = self._background if background else self._lines
        lines.setdefault(key, deque()).append(mine)
        self._seat()
        if self.depth > self._longest and not background:
            self._drop_last_of_longest(key)
        began = None
        try:
            await self._come(mine, None if background else self._patience)
            began = time.monotonic()
            yield
        finally:
            if began is not None:
                self._learn(time.monotonic() - began)
            if mine.cancelled() or not mine.done() or mine.exception():
                self._leave(lines, key, mine)
            else:  # also if the request was cut off between being given its turn and taking it
                self._running[key] -= 1
            self._forget(key)
            self._seat()

    async def _come(self, mine: Turn, patience: float | None) -> None:
        try:
            async with asyncio.timeout(patience):
                await mine
        except TimeoutError:
            message = f"No turn came within {self._patience:g} s."
            raise ApiError(503, message, "queue_timeout", retry_after=self._drained_in()) from None

    def _learn(self, seconds: float) -> None:
        self.service_seconds += (seconds - self.service_seconds) * (WEIGHT if self.service_seconds else 1)

    def _seat(self) -> None:
        """Give free turns to those who may have them, a key at a time."""
        for lines in (self._lines, self._background):
            while self._running.total() < self._slots:
                key = next((key for key in lines if self._may(key)), None)
                if key is None:
                    break
                mine = lines[key].popleft()
                if lines[key]:
                    lines.move_to_end(key)
                else:
                    del lines[key]
                if not mine.done():  # its request may just have been cut off
                    self._running[key] += 1
                    mine.set_result(None)

    def _may(self, key: str) -> bool:
        bound = self._bounds[key]
        return bound is None or self._running[key] < bound

    def _drop_last_of_longest(self, newest: str) -> None:
        longest = max(self._lines, key=lambda key: (len(self._lines[key]), key == newest))
        full = ApiError(429, "Too many requests are waiting; try again.", "queue_full", retry_after=self._drained_in())
        last = self._lines[longest].pop()
        if not last.done():
            last.set_exception(full)

    def _drained_in(self) -> int:
        """Return the seconds, 1 at least, in which those who wait now will have been served."""
        return math.ceil(max(1.0, self.depth * self.service_seconds / self._slots))

    def _leave(self, lines: OrderedDict[str, deque[Turn]], key: str, mine: Turn) -> None:
        line = lines.get(key, deque())
        if mine in line:
            line.remove(mine)
        if not line:
            lines.pop(key, None)

    def _forget(self, key: str) -> None:
        if not self._running[key]:
            del self._running[key]
            if key not in self._lines and key not in self._background:
                self._bounds.pop(key, None)
