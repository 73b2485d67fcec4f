"""How often what died is started again, and after which pause."""

from __future__ import annotations

import time
from collections import deque

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before a start; doubled each time


class Restarts:
    """Counts ends; more than `most` within `window` seconds are too many."""

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._ends = deque[float]()

    def __len__(self) -> int:
        """How many ends there were within the window."""
        return len(self._ends)

    def pause(self) -> float | None:
        """Count one more end; return the seconds until the next start, None if there were too many."""
        now = time.monotonic()
        self._ends.append(now)
        while self._ends[0] < now - self._window:
            self._ends.popleft()
        if len(self) > self._most:
            return None
        return float(min(FIRST_PAUSE * 2 ** (len(self) - 1), LONGEST_PAUSE))
