"""How much a caller may ask: rates, money, and its turn."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from forgeline.config.schema.serve.limits import Limits as Settings
from forgeline.serving.engines import Usage
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.limits.allowances import (
    ALLOWANCES,
    UNIT,
    Period,
    Purse,
    Spend,
    period_end,
    period_start,
    set_budget,
    set_limits,
    spend,
)
from forgeline.serving.gateway.limits.rates import Draw, Level, LocalBuckets, SharedBuckets
from forgeline.serving.gateway.limits.turns import Turns
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store, StoreFailed
from forgeline.serving.gateway.telemetry.metrics import SECONDS

__all__ = ["Admission", "Limits", "Period", "Spend", "set_budget", "set_limits", "spend"]

_PER = {"day": "for a day", "month": "for a month", "total": "in total"}
KNOWN = 2.0  # seconds that what the database says of a key is believed
REMEMBERED = 3600.0  # and while it cannot be asked


@dataclass(frozen=True)
class _Allowance:
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    budget: int | None
    period: Period


class _Metrics:
    def __init__(self, registry: CollectorRegistry, turns: Turns) -> None:
        for name, told, value in (
            ("forgeline_waiting_requests", "Requests that wait for a turn.", lambda: turns.depth),
            ("forgeline_ongoing_requests", "Requests that wait for a turn or have it.", lambda: turns.ongoing),
        ):
            Gauge(name, told, registry=registry).set_function(value)
        self.waited = Histogram("forgeline_wait_seconds", "Until a turn.", buckets=SECONDS, registry=registry)
        self.rejected = Counter("forgeline_rejected", "Requests not taken on.", ["reason"], registry=registry)


class Admission:
    """A request that was taken on; until it is settled, the most that it may use is counted as used."""

    def __init__(self, settle: Callable[[Usage], Awaitable[None]]) -> None:
        self._settle: Callable[[Usage], Awaitable[None]] | None = settle
        self.headers: dict[str, str] = {}  # the caller's rates and what is left of them

    async def settle(self, usage: Usage | None) -> None:
        """Count what was really used, of a reply that was cut too; None if nothing was. Only the first call counts."""
        settle, self._settle = self._settle, None
        if settle:
            await settle(usage or Usage(0, 0))


class Limits:
    """The gateway's limits, and those of its keys; `exhausted` is told of a key whose budget is, once in a period."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: CollectorRegistry,
        exhausted: Callable[[Caller], None] = lambda caller: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._exhausted = exhausted
        self._told: dict[str, tuple[float, int | None]] = {}
        self._known: OrderedDict[str, tuple[float, _Allowance]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Allowance]] = {}
        self._purse = Purse(store)
        self._turns = Turns(settings.concurrency, settings.max_queue, settings.max_wait)
        self._buckets = SharedBuckets(settings.redis, settings.without_redis) if settings.redis else LocalBuckets()
        self._metrics = _Metrics(registry, self._turns)
        self.draining = False

    @asynccontextmanager
    async def admitted(
        self, caller: Caller, prompt_tokens: int, max_tokens: int, background: bool = False, likely: int | None = None
    ) -> AsyncIterator[Admission]:
        """Take a request on, once it is its turn, and hold that; what is in the background lets all others pass.

        `prompt_tokens` should be no less than the engine will count: the budget must cover them. The rates count only
        those that are `likely`, if it is given; what was used beyond is owed. Leaving without having settled leaves
        what was reserved counted.

        Raises:
            ApiError: 429 or 503, with the seconds after which it may be admitted; 400, if it never will be.
        """
        asked = Usage(prompt_tokens, max_tokens)
        arrived = time.monotonic()
        async with AsyncExitStack() as held:
            try:
                if self.draining:
                    raise ApiError(503, "The server is shutting down.", "draining", retry_after=5)
                allowance = await self._allowance(caller.id)
                drawn = max_tokens + (prompt_tokens if likely is None else likely)
                admission = await self._reserved(caller, allowance, asked, drawn)
                try:
                    await held.enter_async_context(self._turns.turn(caller.id, allowance.concurrency, background))
                except BaseException:
                    await admission.settle(None)
                    raise
            except ApiError as refusal:
                self._metrics.rejected.labels(refusal.code).inc()
                raise
            self._metrics.waited.observe(time.monotonic() - arrived)
            yield admission

    @property
    def depth(self) -> int:
        """How many requests wait for their turn."""
        return self._turns.depth

    async def close(self) -> None:
        """Let go of Redis."""
        if isinstance(self._buckets, SharedBuckets):
            await self._buckets.close()

    def price(self, usage: Usage) -> int:
        """Return what tokens cost, in billionths of the currency."""
        prices = self._settings.prices
        thousands = usage.prompt_tokens * prices.prompt + usage.completion_tokens * prices.completion
        return math.ceil(thousands / 1000 * UNIT)

    async def _reserved(self, caller: Caller, allowance: _Allowance, asked: Usage, drawn: int) -> Admission:
        most, start = self.price(asked), period_start(allowance.period, time.time())
        budgeted = allowance.budget is not None and most > 0

        async def settle(used: Usage) -> None:
            price = self.price(used)
            if budgeted:
                self._purse.give_back(caller.id, start, most - price)
            await self._draw_less(caller, allowance, drawn - used.prompt_tokens - used.completion_tokens)

        admission = Admission(settle)
        admission.headers = _headers(await self._drawn(caller, allowance, drawn))
        paid = False
        try:
            paid = not budgeted or await self._paid(caller, start, most)
        finally:
            if not paid:
                await self._draw_less(caller, allowance, drawn)
        if not paid:
            self._refuse_spent(caller, allowance, start)
        return admission

    async def _drawn(self, caller: Caller, allowance: _Allowance, tokens: int) -> list[Level]:
        draws = []
        if allowance.requests_per_minute:
            draws.append(Draw("requests", allowance.requests_per_minute, 1))
        if allowance.tokens_per_minute:
            if tokens > allowance.tokens_per_minute:
                message = f"{tokens} tokens are more than this key's {allowance.tokens_per_minute} a minute."
                raise ApiError(400, message, "tokens_exceed_limit", "max_tokens")
            draws.append(Draw("tokens", allowance.tokens_per_minute, tokens))
        if not draws:
            return []
        taken, levels = await self._buckets.take(caller.id, draws)
        if taken:
            return levels
        short = max(levels, key=lambda level: level.wait)
        message = f"More than this key's {short.draw.capacity} {short.draw.name} a minute; wait {short.wait:.2f} s."
        refusal = ApiError(429, message, "rate_limit_exceeded", retry_after=math.ceil(short.wait))
        refusal.headers = {**(refusal.headers or {}), **_headers(levels)}
        raise refusal

    async def _draw_less(self, caller: Caller, allowance: _Allowance, tokens: int) -> None:
        """Give back the tokens that were not used, or take those that were beyond; the request stays counted."""
        if allowance.tokens_per_minute and tokens:
            with suppress(ApiError):  # no Redis
                await self._buckets.take(caller.id, [Draw("tokens", allowance.tokens_per_minute, -tokens, due=True)])

    async def _paid(self, caller: Caller, start: float, units: int) -> bool:
        try:
            return await self._purse.reserve(caller.id, start, units, self._settings.max_wait)
        except (TimeoutError, StoreFailed):
            message = "This key's budget cannot be read now."
            raise ApiError(503, message, "budget_unavailable", retry_after=5) from None

    def _refuse_spent(self, caller: Caller, allowance: _Allowance, start: float) -> NoReturn:
        if self._told.get(caller.id) != (start, allowance.budget):
            self._told[caller.id] = start, allowance.budget
            self._exhausted(caller)
        left = period_end(allowance.period, time.time()) - time.time()
        message = f"What is left of this key's budget ({_PER[allowance.period]}) does not cover this request."
        raise ApiError(429, message, "insufficient_quota", retry_after=math.ceil(left) if left < math.inf else 0)

    async def _allowance(self, key: str) -> _Allowance:
        now = time.monotonic()
        at, known = self._known.get(key, (-math.inf, None))
        if known and now - at < KNOWN:
            return known
        if key not in self._asking:  # once for all that wait
            self._asking[key] = asyncio.create_task(self._read(key))
            self._asking[key].add_done_callback(lambda done: self._asking.pop(key))
        try:
            async with asyncio.timeout(self._settings.max_wait if known is None else KNOWN):
                return await asyncio.shield(self._asking[key])
        except (TimeoutError, DBAPIError, StoreFailed):
            if known is None:
                message = "This key's limits cannot be read now."
                raise ApiError(503, message, "limits_unavailable", retry_after=5) from None
            return known

    async def _read(self, key: str) -> _Allowance:
        rows = await self._store.read(select(ALLOWANCES).where(ALLOWANCES.c.key == key))
        now, known = time.monotonic(), _allowance(dict(rows[0]) if rows else {}, self._settings)
        self._known[key] = now, known
        self._known.move_to_end(key)
        while next(iter(self._known.values()))[0] < now - REMEMBERED:
            self._known.popitem(last=False)
        return known


def _allowance(row: Mapping[str, Any], settings: Settings) -> _Allowance:
    default = settings.per_key
    return _Allowance(
        requests_per_minute=row.get("requests_per_minute") or default.requests_per_minute,
        tokens_per_minute=row.get("tokens_per_minute") or default.tokens_per_minute,
        concurrency=row.get("concurrency") or default.concurrency,
        budget=row.get("budget"),
        period=row.get("period") or "total",
    )


def _headers(levels: list[Level]) -> dict[str, str]:
    """Return the caller's rates, what remains of them, and when they are whole again, as OpenAI's API says it."""
    told: dict[str, str] = {}
    for level in levels:
        told[f"x-ratelimit-limit-{level.draw.name}"] = str(level.draw.capacity)
        told[f"x-ratelimit-remaining-{level.draw.name}"] = str(max(0, math.floor(level.holds)))
        told[f"x-ratelimit-reset-{level.draw.name}"] = f"{level.reset:.3f}s"
    return told
