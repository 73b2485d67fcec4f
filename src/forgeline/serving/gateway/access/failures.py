"""Who could not be told: counted, and answered the slower the oftener an address fails."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict

from forgeline.serving.gateway.protocol import ApiError

ADDRESSES = 10_000  # how many are remembered, the latest
FORGET_SECONDS = 60.0  # after so long without a failure
FREE = 5  # failures before the first delay
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds; each delay is twice the one before
WAITING = 64  # how many refusals may be held back at once; more are told to come later


class Failures:
    """How often each address failed of late. Who has a good key is never slowed, whatever others at the address do."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    def delay(self, address: str) -> float:
        """Count a failure and return for how many seconds its answer is to be held back."""
        now, address = time.monotonic(), _neighbourhood(address)
        count, last = self._seen.pop(address, (0, now))
        count = 1 if now - last > FORGET_SECONDS else count + 1
        self._seen[address] = (count, now)
        if len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        return 0.0 if count <= FREE else min(FIRST_DELAY * 2 ** min(count - FREE - 1, 16), LONGEST_DELAY)

    async def hold_back(self, address: str) -> None:
        """Count a failure and wait; raises ApiError 429 if too many wait already."""
        seconds = self.delay(address)
        if not seconds:
            return
        if self._waiting >= WAITING:
            raise ApiError(429, "Too many failed attempts; try again later.", "too_many_failures", retry_after=2)
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._seen)


def _neighbourhood(address: str) -> str:
    """Return an address, or the /64 network of an IPv6 one, all of which belongs to one subscriber."""
    return str(ipaddress.ip_network((address, 64), strict=False)) if ":" in address else address
