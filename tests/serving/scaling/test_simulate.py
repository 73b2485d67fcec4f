"""The simulator against arithmetic, against queueing theory, and its two methods against each other."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_remote import REPLY, Server, refuses, says

from forgeline.config.schema import Cost
from forgeline.config.schema.serve import Limits
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.errors import ServingError
from forgeline.serving.scaling import autoscaler, fleet, page, service, traffic
from forgeline.serving.scaling.advise import advise
from forgeline.serving.scaling.autoscaler import Rules, Sight
from forgeline.serving.scaling.service import Service
from forgeline.serving.scaling.simulate import Outcome, simulate
from forgeline.serving.scaling.traffic import Load, Trace, made_up

SERVICE = Service(slots=8, at_once=(1, 8), first=(0.1, 0.35), token=(0.01, 0.03), start=20)
QUICK = {"down_delay": 60, "window": 10, "up_delay": 5}
WIDE = Limits(concurrency=100_000)


def ran(requests: Trace | Load, replica: Service = SERVICE, limits: Limits = WIDE, **keys: Any) -> Outcome:
    options = {name: keys.pop(name) for name in ("flow", "interruptions", "gateways") if name in keys}
    return simulate(requests, replica, Scaling.model_validate(keys), limits, 2.0, **options)


def fixed(size: int, **keys: Any) -> dict[str, Any]:
    return {"min_replicas": size, "max_replicas": size, **keys}


def wave(rate: float, seconds: int) -> Load:
    form = 1 - 0.8 * np.cos(2 * np.pi * np.arange(seconds) / seconds)
    return made_up("steady", rate, seconds, 50)._replace(rates=rate * form)


def test_a_request_alone_takes_what_was_measured() -> None:
    found = ran(Trace(np.array([5.0]), np.array([11.0])), **fixed(1))
    assert found.first.p50 == pytest.approx(0.1)
    assert found.whole.p50 == pytest.approx(0.1 + 10 * 0.01)
    assert found.machine_hours == pytest.approx(5 / 3600)
    assert found.cost == pytest.approx(2 * found.machine_hours)


def test_those_beside_each_other_slow_each_other_and_the_ninth_waits() -> None:
    nine = Trace(np.zeros(9), np.full(9, 11.0))
    found = ran(nine, **fixed(1))
    assert found.first.p50 == pytest.approx(0.35)
    assert found.first.p99 == pytest.approx(0.35 + 10 * 0.03 + 0.1, rel=0.05)


def test_a_server_of_one_slot_waits_as_a_queue_does() -> None:
    """Pollaczek and Khinchine's mean wait of an M/D/1 queue: load * time / (2 * (1 - load))."""
    replica = Service(slots=1, at_once=(1,), first=(0.1,), token=(0.0,), start=1)
    trace = Load(np.full(20_000, 8.0), np.ones(1)).drawn(3)
    rules = Rules.of(Scaling.model_validate(fixed(1)), 0.0, 20_000)
    pace, doors = fleet.Pace(*replica.curves(), np.ones(1), 0.0), fleet.Doors(10_000, 0, 30.0, 1000)
    found = fleet.run(trace.at, trace.tokens, pace, doors, rules, 60.0, 0, 60.0)
    assert np.nanmean(found.first) == pytest.approx(0.1 + 0.8 * 0.1 / (2 * 0.2), rel=0.05)


def test_more_load_brings_replicas_after_the_delay_and_the_start_and_less_lets_them_go() -> None:
    rates = np.concatenate([np.full(120, 2.0), np.full(300, 20.0), np.full(600, 2.0)])
    load = Load(rates, np.full(1, 50.0))
    found = ran(load, min_replicas=1, max_replicas=9, ongoing_requests=6, window=10, up_delay=10, down_delay=60)
    ready = np.repeat(found.ready, int(found.every))
    assert ready[100] == 1
    assert ready[120:145].max() <= 1.5  # no sooner than 10 s of delay and 20 s to start
    assert 3 <= ready[300:420].max() < 9.01
    assert ready[900] == 1
    assert found.mean_ready < np.mean(found.paid)


def test_a_wish_is_followed_once_it_has_lasted() -> None:
    keys = {"min_replicas": 1, "max_replicas": 9, "ongoing_requests": 4, "window": 5, "up_delay": 10, "down_delay": 60}
    rules = Rules.of(Scaling.model_validate(keys), 0.0, 1000.0)
    sight, target, became = Sight.fresh(rules), 1, {}
    for second in range(300):
        autoscaler.look(sight, float(second), 24.0 if second < 100 or 150 <= second < 170 else 4.0)
        before, target = target, autoscaler.decide(rules, sight, float(second), target, target, 0.0)
        became |= {second: target} if target != before else {}
    # After 99 s of more comes less, for 50 s: too short. From 170 s on the mean of 5 s sinks, and 60 s later it counts.
    assert became == {10: 6, 231: 1}


def test_a_schedule_and_silence_set_the_least() -> None:
    quiet = Trace(np.array([10.0, 5000.0]), np.array([5.0, 5.0]), begin=0.0)
    window = {"start": "30 0 * * *", "end": "0 1 * * *", "replicas": 3}
    found = ran(quiet, min_replicas=0, max_replicas=4, idle=100, down_delay=30, schedule=[window])
    ready = np.repeat(found.ready, int(found.every))
    assert ready[400:1700].max() == 0
    assert ready[1900:3500].min() == 3
    assert ready[4000:4900].max() == 0
    assert found.whole.p99 == pytest.approx(20, abs=1)  # who wakes it waits for the start


def test_a_late_first_token_asks_for_more() -> None:
    load = Load(np.full(900, 10.0), np.full(1, 50.0))
    keys = {"min_replicas": 1, "max_replicas": 9, "ongoing_requests": 32}
    without, bounded = ran(load, **keys), ran(load, **keys, first_token=0.3)
    assert bounded.first.p95 < without.first.p95 / 10


def test_full_gateways_refuse() -> None:
    limits = Limits(concurrency=8, max_queue=4, max_wait=1.0)
    found = ran(Trace(np.zeros(20), np.full(20, 101.0)), limits=limits, gateways=1, **fixed(1))
    assert (found.queue_full, found.queue_timeout) == (8, 4)
    assert found.refused == pytest.approx(12 / 20)


def test_what_is_taken_away_is_asked_again() -> None:
    load = Load(np.full(1800, 10.0), np.full(1, 50.0))
    found = ran(load, **fixed(5), interruptions=6.0)
    assert found.lost > 5
    assert found.refused == 0
    assert found.first.p99 > ran(load, **fixed(5)).first.p99


@pytest.mark.parametrize(
    ("load", "keys"),
    [
        (made_up("steady", 160.0, 600, 50), fixed(50)),
        (wave(60.0, 3600), {"min_replicas": 8, "max_replicas": 90, "ongoing_requests": 2, **QUICK}),
        (made_up("bursts", 60.0, 1800, 50), {"min_replicas": 12, "max_replicas": 99, "down_delay": 60}),
        (made_up("steady", 60.0, 600, 50), {**fixed(10), "limits": Limits(concurrency=200, max_queue=100, max_wait=9)}),
    ],
    ids=["steady", "a day in an hour", "bursts", "overrun"],
)
def test_the_flow_agrees_with_each_request(load: Load, keys: dict[str, Any]) -> None:
    keys = {"gateways": 1, **keys}
    replica = SERVICE.model_copy(update={"start": 5.0})
    each, flow = ran(load, replica, flow=False, **keys), ran(load, replica, flow=True, **keys)
    assert flow.mean_ready == pytest.approx(each.mean_ready, rel=0.05)
    assert flow.refused == pytest.approx(each.refused, rel=0.1, abs=0.001)
    for which in ("first", "whole"):
        theirs, ours = getattr(each, which), getattr(flow, which)
        assert ours.p50 == pytest.approx(theirs.p50, rel=0.15)
        assert ours.p95 == pytest.approx(theirs.p95, rel=0.15)


def test_recorded_requests_are_read_and_multiplied(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    rows = [{"at": 100.0 + at, "completion_tokens": 7, "status": 200} for at in (5, 0, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trace = traffic.from_file(path)
    assert (trace.at.tolist(), trace.begin, trace.tokens[0]) == ([0, 5, 9], 100.0, 7)
    assert len(trace.times(3).at) == 9
    assert trace.load().requests == 3
    path.write_text('{"when": 1}\n', encoding="utf-8")
    with pytest.raises(ServingError, match=r"requests\.jsonl:1: each line must be"):
        traffic.from_file(path)


def test_a_measurement_is_kept_and_a_wrong_one_refused(tmp_path: Path) -> None:
    service.save(SERVICE, "laptop", tmp_path)
    assert service.load("laptop", tmp_path) == SERVICE
    with pytest.raises(ServingError, match="run `forgeline measure h100`"):
        service.load("h100", tmp_path)
    (tmp_path / service.FOLDER / "laptop.json").write_text('{"slots": 0}', encoding="utf-8")
    with pytest.raises(ServingError, match="is no measurement of a replica: slots"):
        service.load("laptop", tmp_path)


def test_a_server_is_measured_by_how_many_ask_at_once() -> None:
    async def main() -> None:
        server = Server(says(REPLY))
        async with await asyncio.start_server(server.talk, "127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
            body = {"model": "theirs", "messages": [{"role": "user", "content": "Hello"}]}
            found = await service.measure(url, {}, [body], slots=4, start=1.0, rounds=1)
            assert found.at_once == (1, 2, 4)
            assert server.heard["stream_options"] == {"include_usage": True}
            assert all(0 < seconds < 60 for seconds in found.first)
            server.script = refuses(404, "{}")
            with pytest.raises(ServingError, match="refused to be measured \\(404\\)"):
                await service.measure(url, {}, [body], slots=1, start=1.0)

    asyncio.run(main())


def test_advice_is_the_cheapest_that_keeps_the_bound() -> None:
    trace = made_up("daily", 0.3, traffic.DAY, 50).drawn(1)
    slow = SERVICE.model_copy(update={"first": (0.9, 3.0), "token": (0.1, 0.3)})
    cost = Cost.model_validate(
        {
            "machine": "small",
            "prices": {"small": 1.0, "big": 9.0, "other": 1.0},
            "spot": {"small": {"price": 0.3, "interruptions": 0.05}},
        }
    )
    found = advise(trace, {"small": slow, "big": SERVICE}, cost, Scaling(), WIDE, bound=2.0)
    best = found.options[0]
    assert best.meets
    assert best.outcome.first.p95 <= 2.0
    assert (best.machine, best.spot) == ("small", True)
    kinds = {one.kind for one in found.options}
    assert {"as configured", "always on", "autoscaled", "autoscaled with a schedule"} <= kinds
    always, autoscaled = (
        next(one for one in found.options if one.kind == kind) for kind in ("always on", "autoscaled")
    )
    assert autoscaled.a_month < always.a_month
    assert any("less than always on" in sentence for sentence in found.sentences)
    short = Trace(trace.at[:2000], trace.tokens[:2000])
    hopeless = advise(short, {"small": slow}, cost, Scaling(), WIDE, bound=0.5)
    assert not hopeless.options[0].meets
    assert "no number of replicas meets" in " ".join(hopeless.sentences)
    with pytest.raises(ServingError, match="No machine of"):
        advise(trace, {}, cost, Scaling(), WIDE, bound=0.5)


def test_the_page_holds_the_figures_and_needs_nothing_else(tmp_path: Path) -> None:
    found = ran(made_up("bursts", 10.0, 1800, 50), max_replicas=9)
    path = page.write(found, Scaling(), SERVICE, "laptop", "USD", tmp_path / "pages/simulated.html")
    text = path.read_text(encoding="utf-8")
    assert f"{found.cost:,.2f}" in text
    assert "http://" not in text.replace("http://prometheus:9090", "").replace("http://www.w3.org", "")
    assert text.count("<polyline") == 4
    assert not math.isnan(found.cost)
