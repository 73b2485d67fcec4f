"""A circuit breaker: an engine that fails is left alone for a while, so that it can recover and nobody waits for it.

The rules are those of resilience4j's time-based window: a share of failures over a minimum of calls, slow calls among
them; then rest; then one call on trial.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from forgeline.config.schema.serve.ladder import Breaker as Settings


@dataclass
class Call:
    """One call that a breaker let through; it tells the breaker how it went."""

    breaker: Breaker
    trial: bool

    def begun(self, in_time: bool) -> None:
        """Its first token is there; a trial need not be read to its end."""
        if self.trial and in_time:
            self.ended(True)
            self.trial = False

    def ended(self, well: bool | None) -> None:
        """It ended well, or not, or its caller left before that could be known."""
        self.breaker.record(self.trial, well)


class Breaker:
    """The breaker of one engine."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._opened: float | None = None
        self._on_trial = False

    @property
    def state(self) -> Literal["closed", "half-open", "open"]:
        """Whether calls pass, one may try, or none."""
        if self._opened is None:
            return "closed"
        return "half-open" if self._clock() - self._opened >= self._settings.rest else "open"

    def call(self) -> Call | None:
        """Return a call, if one may be made now."""
        if self.state == "closed":
            return Call(self, trial=False)
        if self.state == "open" or self._on_trial:
            return None
        self._on_trial = True
        return Call(self, trial=True)

    def record(self, trial: bool, well: bool | None) -> None:
        """Take note of how a call ended."""
        now = self._clock()
        if trial:
            self._on_trial = False
            if well is not None:
                self._opened = None if well else now
        elif self._opened is None and well is not None:
            self._calls.append((now, well))
            self._failed += not well
            while now - self._calls[0][0] > self._settings.window:
                self._failed -= not self._calls.popleft()[1]
            enough = len(self._calls) >= self._settings.calls
            if enough and self._failed >= self._settings.failures * len(self._calls):
                self._opened = now
                self._calls.clear()
                self._failed = 0
