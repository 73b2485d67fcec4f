"""How many processor threads decode fastest: found out at the start, and again and again while decoding goes on."""

from __future__ import annotations

import math
import time
from statistics import median

STEPS = 3  # with each number of threads in a trial, by turns
REST = 1.0  # seconds between trials, at least
WASTE = 1 / 16  # of the time may go to what trials take longer than they need


class Pace:
    """A step is so small that more threads may cost more than they bring, most of all where other work wants them too.

    `fastest` is the number of threads that the last trial chose, before any all `processors`. The first trial is begun;
    from then on others follow by themselves.
    """

    def __init__(self, processors: int) -> None:
        self.fastest = processors
        self._options = [processors >> halvings for halvings in range(processors.bit_length())]
        self._turns: list[int] = []
        self._seconds: dict[int, list[float]] = {}
        self._due = math.inf

    @property
    def on_trial(self) -> bool:
        """Whether what the next step takes is looked at."""
        return bool(self._turns)

    def begin(self) -> None:
        """Begin a trial."""
        self._turns = self._options * STEPS
        self._seconds = {threads: [] for threads in self._options}

    def threads(self) -> int:
        """Return how many threads the next step is to have; `took` wants to know how long it was."""
        if not self._turns and time.monotonic() >= self._due:
            self.begin()
        return self._turns[0] if self._turns else self.fastest

    def took(self, seconds: float) -> None:
        """Note the time of the step that had the last `threads`; with the last of a trial, choose."""
        if not self._turns:
            return
        self._seconds[self._turns.pop(0)].append(seconds)
        if not self._turns:
            usual = {threads: median(times) for threads, times in self._seconds.items()}
            self.fastest = min(usual, key=usual.__getitem__)
            wasted = sum(map(sum, self._seconds.values())) - STEPS * len(usual) * usual[self.fastest]
            self._due = time.monotonic() + max(REST, wasted / WASTE)
