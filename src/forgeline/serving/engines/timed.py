"""An engine that remembers how long its first tokens took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np

from forgeline.serving.engines import Engine, GenerationRequest, Piece

MOST = 1000  # times that are remembered


class Timed:
    """The engine `inner`, and the first tokens of its last `window` seconds."""

    def __init__(self, inner: Engine, window: float) -> None:
        self._inner = inner
        self._window = window
        self._times: deque[tuple[float, float]] = deque(maxlen=MOST)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the reply as it comes; closing the generator cancels it."""
        began, waiting = time.monotonic(), True
        async with aclosing(self._inner.generate(request)) as reply:
            async for piece in reply:
                if waiting:
                    now, waiting = time.monotonic(), False
                    self._times.append((now, now - began))
                yield piece

    def first_token(self) -> float:
        """Return the 95th percentile of the seconds to the first token; 0 if there was none in the window."""
        since = time.monotonic() - self._window
        seconds = [seconds for at, seconds in self._times if at >= since]
        return float(np.quantile(seconds, 0.95)) if seconds else 0.0
