"""What an operator sees at a glance: the last hour in memory, a bucket a minute."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter

from forgeline.serving.engines import Engine
from forgeline.serving.gateway.arm import Arms
from forgeline.serving.gateway.exchange import Exchange
from forgeline.serving.gateway.reviews import Reviews
from forgeline.serving.gateway.store import Store, StoreFailed
from forgeline.serving.gateway.traffic import Traffic

MINUTES = 60
SHORTEST = 0.001  # seconds; what is quicker counts as this
STEP = math.log(1.1)  # a bin is a tenth wider than the one before
CALLERS = 200  # whose spending a minute tells apart
OTHERS = "others"


@dataclass
class _Minute:
    number: int
    seconds: Counter[int] = field(default_factory=Counter)
    first_tokens: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)  # by caller
    cost: Counter[str] = field(default_factory=Counter)


class LastHour:
    """Counts of the last 60 minutes, and latencies to within a tenth; a request costs the same however many came."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._minutes: deque[_Minute] = deque(maxlen=MINUTES)

    def answered(self, exchange: Exchange, error: str | None, cost: float) -> None:
        """Count a chat request that is over."""
        minute = self._minute()
        minute.seconds[_bin(exchange.age())] += 1
        if exchange.first_token is not None:
            minute.first_tokens[_bin(exchange.first_token)] += 1
        if error is not None:
            minute.errors[error] += 1
        minute.rungs[exchange.rung or "none"] += 1
        for verdict in exchange.verdicts:
            if verdict.action != "pass":
                minute.verdicts[f"{verdict.guard}:{verdict.action}"] += 1
        if exchange.usage is not None:
            minute.tokens["prompt"] += exchange.usage.prompt_tokens
            minute.tokens["completion"] += exchange.usage.completion_tokens
        caller = exchange.caller.id
        caller = caller if caller in minute.requests or len(minute.requests) < CALLERS else OTHERS
        minute.requests[caller] += 1
        minute.cost[caller] += cost  # type: ignore[assignment]

    def refused(self, code: str) -> None:
        """Count a request that came to nothing before it was a chat request."""
        self._minute().errors[code] += 1

    def shown(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        now = self._now()
        hour = [minute for minute in self._minutes if minute.number > now - MINUTES]
        recent = [minute for minute in hour if minute.number > now - 5]
        per_minute = [0] * MINUTES
        for minute in hour:
            per_minute[minute.number - now - 1] = minute.seconds.total()
        requests, cost = _sum(m.requests for m in hour), _sum(m.cost for m in hour)
        spend = [{"caller": name, "cost": cost[name], "requests": count} for name, count in requests.most_common(50)]
        rungs = _sum(m.rungs for m in hour)
        return {
            "traffic": {"per_minute": per_minute, "last_5": sum(per_minute[-5:]), "last_60": sum(per_minute)},
            "latency": {"last_5": _latency(recent), "last_60": _latency(hour)},
            "errors": _sum(m.errors for m in hour),
            "verdicts": _sum(m.verdicts for m in hour),
            "rungs": rungs,
            "cache": {"hits": rungs["cache"] + rungs["semantic"], "requests": sum(per_minute)},
            "tokens": {"prompt": 0, "completion": 0} | _sum(m.tokens for m in hour),
            "spend": {"by_key": sorted(spend, key=lambda each: -float(str(each["cost"])))},
        }

    def _now(self) -> int:
        return int(self._clock() // 60)

    def _minute(self) -> _Minute:
        now = self._now()
        if not self._minutes or self._minutes[-1].number != now:
            self._minutes.append(_Minute(now))
        return self._minutes[-1]


def router(
    hour: LastHour,
    arms: Arms,
    traffic: Traffic,
    store: Store,
    reviews: Reviews,
    queue: Callable[[], int],
    currency: str,
) -> APIRouter:
    """Return the route for operators; `queue` tells how many requests wait."""
    routes = APIRouter()
    started = time.time()

    @routes.get("/v1/status")
    async def status() -> dict[str, Any]:
        shown = hour.shown()
        shown["traffic"] |= {"in_flight": traffic.in_flight, "queue": queue()}
        shown["spend"] |= {"currency": currency}
        since = store.behind_since
        try:
            waiting: dict[str, Any] | None = await reviews.counts()
        except StoreFailed:  # the page must show just then what is wrong
            waiting = None
        return {
            "at": time.time(),
            "started_at": started,
            "draining": traffic.draining,
            "deployment": {**arms.live.manifest.lineage.model_dump(), "bundle": arms.live.served.bundle},
            "engines": [_engine(name, engine) for name, engine in arms.live.engines.items()],
            **shown,
            "reviews": waiting,
            "store": {
                "depth": store.depth,
                "behind": None if since is None else time.monotonic() - since,
                "spooled": store.spooled,
            },
        }

    return routes


def _engine(name: str, engine: Engine) -> dict[str, Any]:
    failure = None if engine.failure is None else str(engine.failure)
    return {"name": name, "ready": engine.ready, "depth": engine.depth, "failure": failure}


def _latency(minutes: list[_Minute]) -> dict[str, Any]:
    seconds = _sum(minute.seconds for minute in minutes)
    first = _sum(minute.first_tokens for minute in minutes)
    return {"requests": seconds.total(), **_quantiles(seconds), "first_token": _quantiles(first)}


def _quantiles(bins: Counter[int]) -> dict[str, float | None]:
    return {f"p{percent}": _quantile(bins, percent) for percent in (50, 95, 99)}


def _quantile(bins: Counter[int], percent: int) -> float | None:
    rank = math.ceil(bins.total() * percent / 100)
    for number in sorted(bins):
        rank -= bins[number]
        if rank <= 0:
            return round(SHORTEST * math.exp((number + 0.5) * STEP), 4)
    return None


def _bin(seconds: float) -> int:
    return int(math.log(max(seconds, SHORTEST) / SHORTEST) / STEP)


def _sum(counters: Iterable[Counter[Any]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for counter in counters:
        total.update(counter)
    return total
