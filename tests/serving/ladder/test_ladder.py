"""What answers when an engine does not, in which order, and what may not be asked again."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import ValidationError
from scripted import GOOD, HANG, Scene, Scripted, exchange

from forgeline.config.schema.serve.ladder import Ladder as Settings
from forgeline.serving.engines import EngineFailed, EngineUnavailable, RequestRefused
from forgeline.serving.gateway.store import StoreFailed

AWAY = (EngineUnavailable("away"),)
BROKEN = ("Good ", EngineFailed("broken"))
ALL = ("engine", "other", "cached", "template", "human")
HOURS = {"words": ["opening hours", "open"], "text": "We open at 9."}


def test_a_fault_before_the_first_piece_is_tried_again() -> None:
    async def run() -> None:
        engine = Scripted(AWAY, (EngineFailed("broken"),), GOOD)
        scene, asked = Scene(engine), exchange(stream=True)
        assert (await scene.ask(asked), asked.rung, len(engine.asked)) == ("Good day.", "own", 3)
        assert scene.count("forgeline_engine_tries_total", engine="own", outcome="unavailable") == 1
        assert scene.count("forgeline_engine_tries_total", engine="own", outcome="ok") == 1
        assert scene.count("forgeline_rungs_total", rung="own") == 1

    asyncio.run(run())


def test_an_engine_that_asks_to_be_left_alone_is() -> None:
    async def run() -> None:
        own, asked = Scripted((EngineUnavailable("busy", retry_after=7),)), exchange()
        await Scene(own, Scripted()).ask(asked)
        assert (asked.rung, len(own.asked)) == ("second", 1)
        with pytest.raises(EngineUnavailable) as alone:
            await Scene(own).ask(exchange())
        assert alone.value.retry_after == 7

    asyncio.run(run())


def test_tries_are_bounded() -> None:
    async def run() -> None:
        engine = Scripted(AWAY)
        with pytest.raises(EngineUnavailable, match="away"):
            await Scene(engine, tries=4).ask(exchange())
        assert len(engine.asked) == 4

    asyncio.run(run())


@pytest.mark.parametrize("cached", [True, False])
def test_a_stream_that_broke_is_never_begun_again(cached: bool) -> None:
    async def run() -> None:
        own, second = Scripted(BROKEN), Scripted()
        scene, heard = Scene(own, second, rungs=ALL, templates=[HOURS]), []
        with pytest.raises(EngineFailed, match="broken"):
            async for piece in scene.ladder.answer(exchange(stream=True), cached):
                heard.append(piece.text)
        assert (heard, len(own.asked), len(second.asked)) == (["Good "], 1, 0)

    asyncio.run(run())


def test_without_a_stream_what_broke_half_way_is_asked_again() -> None:
    async def run() -> None:
        engine = Scripted(BROKEN, BROKEN, GOOD)
        assert await Scene(engine).ask(exchange()) == "Good day."
        cut = Scripted(("Good ", HANG), GOOD)  # once let go it ends, and says no reason
        cut.go.set()
        assert await Scene(cut).ask(exchange()) == "Good day."
        assert len(cut.asked) == 2

    asyncio.run(run())


def test_a_refused_request_never_climbs() -> None:
    async def run() -> None:
        own, second = Scripted((RequestRefused("too long"),)), Scripted()
        scene = Scene(own, second, rungs=ALL, templates=[HOURS])
        with pytest.raises(RequestRefused, match="too long"):
            await scene.ask(exchange("When do you open?"))
        assert (len(own.asked), len(second.asked), scene.tickets) == (1, 0, [])

    asyncio.run(run())


def test_what_only_another_engine_refuses_climbs_on() -> None:
    async def run() -> None:
        scene, asked = Scene(Scripted(AWAY), Scripted((RequestRefused("too long"),)), Scripted()), exchange()
        await scene.ask(asked)
        assert asked.rung == "third"

    asyncio.run(run())


def test_another_engine_answers_if_it_can() -> None:
    async def run() -> None:
        own, bare, able = Scripted(AWAY, models=("tone",)), Scripted(), Scripted(models=("tone",))
        asked = exchange(model="tone")
        await Scene(own, bare, able).ask(asked)
        assert (asked.rung, len(bare.asked)) == ("third", 0)

    asyncio.run(run())


def test_an_engine_that_is_not_ready_is_not_waited_for() -> None:
    async def run() -> None:
        own, asked = Scripted(), exchange()
        own.ready = False
        await Scene(own, Scripted(), backoff=60).ask(asked)
        assert (asked.rung, own.asked) == ("second", [])

    asyncio.run(run())


def test_each_rung_in_its_turn() -> None:
    async def run() -> None:
        own, second = Scripted(GOOD, AWAY), Scripted(AWAY)
        scene = Scene(own, second, rungs=ALL, templates=[HOURS], cache={"seconds": 1e-9})
        await scene.ask(exchange("Do you open on Sunday?"))
        rungs = []
        for question in ("Do you open on Sunday?", "Do you OPEN on Monday?", "Is it opened?"):
            asked = exchange(question, temperature=1)
            said = await scene.ask(asked)
            rungs.append((asked.rung, said, asked.finish_reason, asked.ticket))
        assert rungs == [
            ("stale", "Good day.", "stop", None),
            ("template", "We open at 9.", "stop", None),
            ("queue", "I cannot answer this now. A person will: your ticket is T-1.", "stop", "T-1"),
        ]
        counts = [scene.count("forgeline_rungs_total", rung=rung) for rung in ("own", "stale", "template", "queue")]
        assert counts == [1, 1, 1, 1]
        with pytest.raises(EngineUnavailable):  # who wants no stored answer gets none
            await Scene(own, rungs=["engine", "cached"]).ask(exchange("Do you open on Sunday?"), cached=False)

    asyncio.run(run())


def test_the_last_good_answer_is_the_tenants_own() -> None:
    async def run() -> None:
        own = Scripted(GOOD, AWAY)
        scene = Scene(own)
        await scene.ask(exchange())
        with pytest.raises(EngineUnavailable):
            await scene.ask(exchange(tenant="b", temperature=1))

    asyncio.run(run())


def test_a_queue_that_takes_nothing_leaves_the_engines_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        scene = Scene(Scripted(AWAY), rungs=["engine", "human"])

        async def full(_: Any) -> str:
            raise StoreFailed("The gateway's database does not keep up.")

        scene.ladder._open_ticket = full
        with pytest.raises(EngineUnavailable, match="away"):
            await scene.ask(exchange())
        assert "does not keep up" in caplog.text

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_a_hung_engine_leaves_time_for_the_other_rungs(stream: bool) -> None:
    async def run() -> None:
        own, second, asked = Scripted((HANG,)), Scripted((HANG,)), exchange(stream=stream)
        started = time.perf_counter()
        await Scene(own, second, timeout=0.4, rungs=["engine", "other", "human"]).ask(asked)
        assert (asked.rung, own.cancelled, second.cancelled) == ("queue", 1, 1)
        assert time.perf_counter() - started < 0.4

    asyncio.run(run())


def test_an_engine_that_falls_silent_half_way() -> None:
    async def run() -> None:
        asked = exchange()
        await Scene(Scripted(("Good ", HANG)), Scripted(), patience=0.05).ask(asked)
        assert asked.rung == "second"
        with pytest.raises(EngineFailed, match="did not answer in time"):
            await Scene(Scripted(("Good ", HANG)), Scripted(), patience=0.05).ask(exchange(stream=True))
        with pytest.raises(TimeoutError):  # what the gateway answers with 504
            await Scene(Scripted((HANG,)), patience=0.05).ask(exchange())

    asyncio.run(run())


def test_a_caller_that_reads_slowly_is_not_the_engines_fault() -> None:
    async def run() -> None:
        scene = Scene(Scripted(), timeout=0.05)
        async with aclosing(scene.ladder.answer(exchange(stream=True, temperature=1))) as pieces:
            await anext(pieces)
            await asyncio.sleep(0.06)
            with pytest.raises(TimeoutError, match="request_timeout"):
                await anext(pieces)
        assert scene.count("forgeline_engine_tries_total", engine="own", outcome="left") == 1
        assert scene.count("forgeline_engine_tries_total", engine="own", outcome="late") == 0

    asyncio.run(run())


BREAKER = {"calls": 4, "failures": 0.5, "rest": 60.0}


def test_a_breaker_opens_rests_and_closes_after_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        own = Scripted(GOOD, GOOD, AWAY, AWAY, AWAY, (HANG, "Good."), GOOD)
        scene = Scene(own, Scripted(), tries=1, breaker=BREAKER, rungs=["engine", "other"], cache={"bytes": 0})
        now = time.monotonic()
        clock = {"now": now}
        breaker = scene.ladder._rungs[0].args[0].breaker  # type: ignore[attr-defined]
        breaker._clock = lambda: clock["now"]

        async def rung() -> str:
            asked = exchange()
            await scene.ask(asked)
            return asked.rung

        def state() -> float:
            return scene.count("forgeline_breaker", engine="own")

        assert [await rung() for _ in range(4)] == ["own", "own", "second", "second"]
        assert state() == 2
        assert (await rung(), len(own.asked)) == ("second", 4)  # not asked while it rests
        clock["now"] += 60
        assert state() == 1
        assert (await rung(), len(own.asked), state()) == ("second", 5, 2)  # the trial fails
        clock["now"] += 60
        trial = asyncio.ensure_future(rung())
        while len(own.asked) < 6:
            await asyncio.sleep(0)
        assert await rung() == "second"  # one trial at a time
        own.go.set()
        assert (await trial, state()) == ("own", 0)
        assert await rung() == "own"
        assert scene.count("forgeline_engine_tries_total", engine="own", outcome="resting") == 2

    asyncio.run(run())


def test_slow_first_tokens_open_the_breaker_and_hang_ups_do_not() -> None:
    async def run() -> None:
        left = Scene(Scripted(), breaker={"calls": 1}, cache={"bytes": 0})
        for _ in range(3):
            async with aclosing(left.ladder.answer(exchange(stream=True))) as pieces:
                await anext(pieces)
        assert left.count("forgeline_breaker", engine="own") == 0
        slow = Scene(Scripted(), breaker={"calls": 1, "slow": 1e-9}, cache={"bytes": 0})
        await slow.ask(exchange())
        assert slow.count("forgeline_breaker", engine="own") == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rungs": ["other", "engine"]}, "begins with engine"),
        ({"rungs": ["engine", "cached", "cached"]}, "no rung twice"),
        ({"rungs": ["engine", "human", "cached"]}, "nothing may come after"),
        ({"rungs": ["engine", "template"]}, "need each other"),
        ({"rungs": ["engine", "template", "human"], "templates": [{"text": "Later."}]}, "answers everything"),
        ({"ticket_text": "A person will answer."}, "must name the {ticket}"),
        ({"tries": 0}, "greater than or equal to 1"),
    ],
)
def test_a_ladder_that_cannot_be_climbed_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings.model_validate(settings)
