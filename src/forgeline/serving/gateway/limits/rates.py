"""Token buckets, refilled over a minute: in this process, or in a Redis that several gateways share.

A bucket knows exactly when it will hold enough, takes any amount at once, can be given back what was not used, and can
owe what was used beyond what it held: up to a minute's refill.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from forgeline.serving.gateway.protocol import ApiError
from forgeline.sources.environment import expand, shown

logger = logging.getLogger("forgeline.gateway")
MINUTE = 60.0
PATIENCE = 0.05  # seconds that a request waits for Redis
PAUSE = 1.0  # seconds before a Redis that did not answer is asked again


@dataclass(frozen=True)
class Draw:
    """What one request takes of one bucket; a negative amount is given back, and what is `due` is taken or owed."""

    name: str
    capacity: int
    amount: int
    due: bool = False


@dataclass(frozen=True)
class Level:
    """What a bucket holds after a draw."""

    draw: Draw
    holds: float

    @property
    def wait(self) -> float:
        """Seconds until it holds what was asked."""
        return max(0.0, self.draw.amount - self.holds) * MINUTE / self.draw.capacity

    @property
    def reset(self) -> float:
        """Seconds until it is full."""
        return (self.draw.capacity - self.holds) * MINUTE / self.draw.capacity


class Buckets(Protocol):
    """Where the levels are kept."""

    async def take(self, key: str, draws: Sequence[Draw]) -> tuple[bool, list[Level]]:
        """Take all draws or none; return whether they were taken, and the levels then."""
        ...


class LocalBuckets:
    """Levels in this process; a bucket that nobody drew from for two minutes is full, and forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()  # when, and what it held then

    async def take(self, key: str, draws: Sequence[Draw]) -> tuple[bool, list[Level]]:
        """Take all draws or none; return whether they were taken, and the levels then."""
        now = self._clock()
        held = [self._level(key, draw, now) for draw in draws]
        taken = all(draw.due or draw.amount <= level for draw, level in zip(draws, held, strict=True))
        if taken:
            held = [
                max(-draw.capacity, min(draw.capacity, level - draw.amount))
                for draw, level in zip(draws, held, strict=True)
            ]
            for draw, level in zip(draws, held, strict=True):
                self._levels[key, draw.name] = now, level
                self._levels.move_to_end((key, draw.name))
        while self._levels and next(iter(self._levels.values()))[0] < now - 2 * MINUTE:
            self._levels.popitem(last=False)
        return taken, [Level(draw, level) for draw, level in zip(draws, held, strict=True)]

    def _level(self, key: str, draw: Draw, now: float) -> float:
        at, level = self._levels.get((key, draw.name), (now, draw.capacity))
        return min(draw.capacity, level + (now - at) * draw.capacity / MINUTE)


# The same in one round trip, by Redis' own clock. Nothing is written if the draws are not taken: the level then
# follows from the last one written.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local taken, held = 1, {}
for i = 0, #ARGV / 4 - 1 do
  local name, capacity, amount = ARGV[4 * i + 1], tonumber(ARGV[4 * i + 2]), tonumber(ARGV[4 * i + 3])
  local level = tonumber(redis.call('HGET', KEYS[1], name) or capacity)
  local at = tonumber(redis.call('HGET', KEYS[1], name .. ':at') or now)
  held[i + 1] = math.min(capacity, level + math.max(0, now - at) * capacity / 60)
  if amount > held[i + 1] and ARGV[4 * i + 4] == '0' then taken = 0 end
end
if taken == 1 then
  for i = 0, #ARGV / 4 - 1 do
    local name, capacity = ARGV[4 * i + 1], tonumber(ARGV[4 * i + 2])
    held[i + 1] = math.max(-capacity, math.min(capacity, held[i + 1] - tonumber(ARGV[4 * i + 3])))
    redis.call('HSET', KEYS[1], name, string.format('%.6f', held[i + 1]), name .. ':at', string.format('%.6f', now))
  end
  redis.call('EXPIRE', KEYS[1], 120)
end
local told = {taken}
for i, level in ipairs(held) do told[i + 1] = string.format('%.6f', level) end
return told
"""


@dataclass(eq=False)
class _Ask:
    key: str
    draws: Sequence[Draw]
    answer: asyncio.Future[tuple[bool, list[Level]]]


class SharedBuckets:
    """Levels in Redis; what is asked during a round trip goes together with the next one, on one connection.

    A request waits at most PATIENCE; while Redis does not answer, local levels or a refusal stand in.
    """

    def __init__(self, address: str, without: Literal["local", "refuse"]) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._redis = Redis.from_url(expand(address), retry=Retry(NoBackoff(), 0), decode_responses=True)
        self._name = shown(address)
        self._local = LocalBuckets() if without == "local" else None
        self._asks: list[_Ask] = []
        self._trips: asyncio.Task[None] | None = None
        self._asked_again_at = 0.0
        self.away = False

    async def take(self, key: str, draws: Sequence[Draw]) -> tuple[bool, list[Level]]:
        """Take all draws or none; return whether they were taken, and the levels then.

        Raises:
            ApiError: 503, while Redis is away and nothing is to be taken on without it.
        """
        if not self.away or time.monotonic() >= self._asked_again_at:
            self._asked_again_at = time.monotonic() + PAUSE  # the others do not wait with this one
            ask = _Ask(key, draws, asyncio.get_running_loop().create_future())
            self._asks.append(ask)
            if self._trips is None or self._trips.done():
                self._trips = asyncio.create_task(self._travel())
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    return await ask.answer
        if self._local is None:
            raise ApiError(503, "Rates cannot be counted now.", "limits_unavailable", retry_after=1)
        return await self._local.take(key, draws)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._redis.aclose()

    async def _travel(self) -> None:
        """Ask Redis until nobody waits; answers to those who gave up are dropped."""
        from redis import RedisError

        while self._asks:
            asks, self._asks = self._asks, []
            trip = self._redis.pipeline(transaction=False)
            for ask in asks:
                draws = [(draw.name, draw.capacity, draw.amount, int(draw.due)) for draw in ask.draws]
                asked = [part for draw in draws for part in draw]
                trip.eval(SCRIPT, 1, f"forgeline:rate:{ask.key}", *asked)
            try:
                async with asyncio.timeout(PATIENCE):
                    answers = await trip.execute()
            except (TimeoutError, RedisError, OSError) as fault:
                self._lost(fault)
                for ask in (*asks, *self._asks):
                    if not ask.answer.done():
                        ask.answer.set_exception(TimeoutError())
                self._asks = []
                return
            self._found()
            for ask, (taken, *held) in zip(asks, answers, strict=True):
                if not ask.answer.done():
                    levels = [Level(draw, float(level)) for draw, level in zip(ask.draws, held, strict=True)]
                    ask.answer.set_result((bool(taken), levels))

    def _lost(self, fault: Exception) -> None:
        if not self.away:
            logger.warning("%s does not answer (%r): rates are counted without it", self._name, fault)
        self.away = True

    def _found(self) -> None:
        if self.away:
            logger.info("%s answers again", self._name)
        self.away = False
