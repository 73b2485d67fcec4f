from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from forgeline.config.schema.serve.limits import Limits as Settings
from forgeline.serving.engines import Usage
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.limits import Limits, set_limits
from forgeline.serving.gateway.limits.rates import Draw, LocalBuckets, SharedBuckets
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store

ANN = Caller("ann", "shop", frozenset({"caller"}))
BOB = Caller("bob", "shop", frozenset({"caller"}))


def limits(store: Store, **settings: Any) -> Limits:
    return Limits(Settings.model_validate(settings), store, CollectorRegistry())


async def ask(gate: Limits, caller: Caller = ANN, prompt: int = 10, most: int = 10, used: int = 10) -> dict[str, str]:
    """Ask once, and use so many tokens of the completion; return the headers."""
    async with gate.admitted(caller, prompt, most) as admission:
        await admission.settle(Usage(prompt, used))
    return admission.headers


def test_requests_and_tokens_of_a_key_are_bounded(store: Store) -> None:
    async def scene() -> None:
        gate = limits(store, per_key={"requests_per_minute": 2, "tokens_per_minute": 1000})
        headers = await ask(gate, prompt=100, most=300)
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        assert 29 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 30
        assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "600")
        await ask(gate)
        with pytest.raises(ApiError, match="2 requests a minute; wait") as refused:
            await ask(gate)
        assert (refused.value.status_code, refused.value.code) == (429, "rate_limit_exceeded")
        told = refused.value.headers or {}
        assert told["Retry-After"] == "30" and told["x-ratelimit-remaining-requests"] == "0"
        await ask(gate, BOB)

    asyncio.run(scene())


def test_what_was_not_used_is_given_back_and_what_never_fits_is_told(store: Store) -> None:
    async def scene() -> None:
        gate = limits(store, per_key={"tokens_per_minute": 1000})
        for _ in range(5):  # each reserves 500 and uses 100
            await ask(gate, prompt=50, most=450, used=50)
        assert int((await ask(gate))["x-ratelimit-remaining-tokens"]) < 500
        with pytest.raises(ApiError, match="1001 tokens are more than this key's 1000 a minute") as never:
            await ask(gate, prompt=1, most=1000)
        assert (never.value.status_code, never.value.param, never.value.headers) == (400, "max_tokens", None)

    asyncio.run(scene())


def test_what_was_used_beyond_the_estimate_is_owed(store: Store) -> None:
    async def scene() -> None:
        gate = limits(store, per_key={"tokens_per_minute": 1000})
        async with gate.admitted(ANN, 10, 10) as admission:
            await admission.settle(Usage(1490, 10))
        with pytest.raises(ApiError, match="a minute; wait") as refused:
            await ask(gate)
        assert int((refused.value.headers or {})["Retry-After"]) in {31, 32}  # 500 are owed, and 20 are asked for
        async with gate.admitted(BOB, 10, 10) as admission:
            await admission.settle(Usage(10**9, 0))
        with pytest.raises(ApiError) as refused:
            await ask(gate, BOB)
        assert int((refused.value.headers or {})["Retry-After"]) in {61, 62}  # never more than a minute's worth is owed

    asyncio.run(scene())


def test_a_key_may_have_limits_of_its_own(store: Store) -> None:
    set_limits(store, "bob", requests_per_minute=1)

    async def scene() -> None:
        gate = limits(store, per_key={"requests_per_minute": 50})
        assert (await ask(gate))["x-ratelimit-limit-requests"] == "50"
        assert (await ask(gate, BOB))["x-ratelimit-limit-requests"] == "1"

    asyncio.run(scene())


def test_the_wait_is_honest_to_the_hundredth_of_a_second() -> None:
    now = 0.0
    buckets = LocalBuckets(lambda: now)
    draws = [Draw("requests", 60, 1), Draw("tokens", 6000, 700)]

    async def taken() -> bool:
        return (await buckets.take("ann", draws))[0]

    async def scene() -> None:
        nonlocal now
        assert [await taken() for _ in range(9)] == [True] * 8 + [False]
        (_, levels) = await buckets.take("ann", draws)
        wait = max(level.wait for level in levels)
        assert wait == pytest.approx(3)  # 400 tokens are there, and 100 come in a second
        now = wait - 0.01
        assert not await taken()
        now = wait
        assert await taken()
        now += 121
        await buckets.take("bob", draws)
        assert {key for key, _ in buckets._levels} == {"bob"}  # what is full again is not kept

    asyncio.run(scene())


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not a Redis that is away."""
    monkeypatch.setattr("forgeline.serving.gateway.limits.rates.PATIENCE", 10)


@pytest.mark.usefixtures("patient")
def test_gateways_with_one_redis_count_together(store: Store, redis_server: Any) -> None:
    async def scene() -> None:
        gates = [
            limits(store, redis=redis_server.address, per_key={"requests_per_minute": 40, "tokens_per_minute": 9000})
            for _ in range(2)
        ]
        results = await asyncio.gather(*(ask(gates[n % 2]) for n in range(60)), return_exceptions=True)
        refused = [result for result in results if isinstance(result, ApiError)]
        assert len(results) - len(refused) == 40
        assert {(fault.code, (fault.headers or {})["Retry-After"]) for fault in refused} == {
            ("rate_limit_exceeded", "2")
        }
        assert int((await ask(gates[0], BOB))["x-ratelimit-remaining-tokens"]) == 8980
        for gate in gates:
            await gate.close()

    asyncio.run(scene())


@pytest.mark.usefixtures("patient")
def test_the_wait_is_honest_in_redis(redis_server: Any) -> None:
    async def scene() -> None:
        buckets = SharedBuckets(redis_server.address, "refuse")
        draw = [Draw("tokens", 6000, 6000)]
        assert (await buckets.take("ann", draw))[0]
        small = [Draw("tokens", 6000, 20)]
        taken, levels = await buckets.take("ann", small)
        assert not taken and 0 < levels[0].wait <= 0.2
        await asyncio.sleep(levels[0].wait)
        assert (await buckets.take("ann", small))[0]
        await buckets.take("ann", [Draw("tokens", 6000, -99999, due=True)])
        assert (await buckets.take("ann", [Draw("tokens", 6000, 0)]))[1][0].holds == 6000
        taken, levels = await buckets.take("ann", [Draw("tokens", 6000, 9000, due=True)])
        assert taken and levels[0].holds == pytest.approx(-3000, abs=100)
        await buckets.close()

    asyncio.run(scene())


@pytest.mark.parametrize("trouble", ["hangs", "dies"])
def test_without_redis_rates_are_counted_here(
    store: Store, redis_server: Any, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forgeline.serving.gateway.limits.rates.PAUSE", 0.2)

    async def timed(call: Callable[[], Any]) -> float:
        began = time.perf_counter()
        await call()
        return time.perf_counter() - began

    async def scene() -> None:
        gate = limits(store, redis=redis_server.address, per_key={"requests_per_minute": 30})
        await ask(gate)
        redis_server.signal(signal.SIGSTOP if trouble == "hangs" else signal.SIGKILL)
        waits = [await timed(lambda: ask(gate)) for _ in range(29)]
        assert max(waits) < 0.5 and sorted(waits)[14] < 0.02  # one waits for Redis, and the others do not with it
        results = await asyncio.gather(*(ask(gate) for _ in range(10)), return_exceptions=True)
        assert [getattr(fault, "code", None) for fault in results].count("rate_limit_exceeded") >= 9
        if trouble == "hangs":
            redis_server.signal(signal.SIGCONT)
        else:
            redis_server.process.wait()
            redis_server.start()
        for _ in range(100):
            await asyncio.sleep(0.05)
            with suppress(ApiError):  # bob's own rate
                await ask(gate, BOB)
            if not gate._buckets.away:  # type: ignore[union-attr]
                break
        assert int((await ask(gate))["x-ratelimit-remaining-requests"]) >= 27  # as Redis remembers it
        await gate.close()

    asyncio.run(scene())


def test_without_redis_nothing_is_taken_on_if_so_decided(store: Store, redis_server: Any) -> None:
    async def scene() -> None:
        gate = limits(store, redis=redis_server.address, without_redis="refuse", per_key={"requests_per_minute": 30})
        await ask(gate)
        redis_server.signal(signal.SIGSTOP)
        with pytest.raises(ApiError, match="Rates cannot be counted now") as refused:
            await ask(gate)
        assert refused.value.status_code == 503
        await gate.close()

    asyncio.run(scene())
