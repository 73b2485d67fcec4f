from __future__ import annotations

import time

import pytest
from rooms import Rooms, exchange

from forgeline.serving.gateway.status import LastHour


def test_latencies_are_within_a_tenth_and_old_minutes_go() -> None:
    now = 1_000_000.0
    hour = LastHour(lambda: now)
    for number in range(1, 101):
        done = exchange("x", caller=f"key-{number % 2}/shop")
        done.began = time.perf_counter() - number / 100
        hour.answered(done, None, 0.5)
    now += 600
    late = exchange("late", "toxicity:flag", "pii:pass")
    late.rung, late.began = "cache", time.perf_counter() - 2
    hour.answered(late, "timeout", 0)
    hour.refused("rate_limited")
    shown = hour.shown()
    assert shown["latency"]["last_60"]["p50"] == pytest.approx(0.5, rel=0.1)
    assert shown["latency"]["last_60"]["p95"] == pytest.approx(0.95, rel=0.1)
    assert shown["latency"]["last_5"]["p50"] == pytest.approx(2, rel=0.1)
    assert shown["latency"]["last_5"]["first_token"]["p99"] == pytest.approx(0.05, rel=0.1)
    assert shown["traffic"]["per_minute"][-1] == 1 and shown["traffic"]["per_minute"][-11] == 100
    assert (shown["traffic"]["last_5"], shown["traffic"]["last_60"]) == (1, 101)
    assert shown["errors"] == {"timeout": 1, "rate_limited": 1} and shown["verdicts"] == {"toxicity:flag": 1}
    assert shown["rungs"] == {"transformers": 100, "cache": 1} and shown["cache"] == {"hits": 1, "requests": 101}
    assert shown["tokens"] == {"prompt": 42 * 101, "completion": 12 * 101}
    spent = {each["caller"]: (each["cost"], each["requests"]) for each in shown["spend"]["by_key"]}
    assert spent == {"key-0": (25, 50), "key-1": (25, 50), "anna": (0, 1)}
    now += 3600
    gone = hour.shown()
    assert gone["traffic"]["last_60"] == 0 and gone["latency"]["last_60"]["p50"] is None and gone["errors"] == {}


def test_an_operator_sees_all_at_once(rooms: Rooms) -> None:
    rooms.hour.answered(exchange("one"), None, 0.25)
    rooms.run(rooms.reviews.submit, exchange("one"), "always")
    code, shown = rooms.call("GET", "/v1/status")
    assert code == 200
    assert shown["deployment"]["version"] == "3" and shown["traffic"]["queue"] == 3
    assert shown["spend"] == {"currency": "EUR", "by_key": [{"caller": "anna", "cost": 0.25, "requests": 1}]}
    assert shown["reviews"]["open"] == 1 and 0 <= shown["reviews"]["oldest"] < 60
    assert shown["store"] == {"depth": 0, "behind": None, "spooled": 0}
