"""What is answered without asking: the very same question, and one that means the same; never another's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from scripted import GOOD, HANG, Scene, Scripted, exchange, until

from forgeline.config.schema.serve.ladder import Semantic as Settings
from forgeline.serving.engines import EngineUnavailable, Piece, Usage
from forgeline.serving.gateway.cache.semantic import Semantic
from forgeline.serving.gateway.exchange import Verdict

REPLY = Piece("It is.", Usage(3, 2), "stop")


def test_a_hit_is_the_answer_as_it_was() -> None:
    async def run() -> None:
        engine = Scripted()
        scene = Scene(engine)
        await scene.ask(exchange())
        for stream in (False, True):
            asked = exchange(stream=stream)
            assert await scene.ask(asked) == "Good day."
            assert (asked.rung, asked.usage, asked.finish_reason) == ("cache", Usage(3, 2), "stop")
        assert len(engine.asked) == 1
        assert scene.count("forgeline_cache_total", result="hit") == 2
        assert scene.count("forgeline_rungs_total", rung="cache") == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"question": "Hello!"},
        {"model": "tone"},
        {"top_p": 0.5},
        {"stop": ("x",)},
        {"seed": 2},
        {"temperature": 0.5, "seed": 1},
    ],
)
def test_anything_else_is_asked(other: dict[str, Any]) -> None:
    async def run() -> None:
        engine = Scripted(models=("tone",))
        scene = Scene(engine)
        await scene.ask(exchange(seed=1))
        asked = exchange(**({"seed": 1} | other))
        await scene.ask(asked)
        assert (asked.rung, len(engine.asked)) == ("own", 2)

    asyncio.run(run())


def test_what_is_drawn_anew_or_not_to_be_stored_is_asked() -> None:
    async def run() -> None:
        engine = Scripted()
        scene = Scene(engine)
        for temperature, cached in ((1.0, True), (1.0, True), (0.0, False), (0.0, False)):
            await scene.ask(exchange(temperature=temperature), cached)
        assert len(engine.asked) == 4

    asyncio.run(run())


def test_only_an_own_reply_that_the_guards_left_alone_is_kept() -> None:
    async def run() -> None:
        own, second = Scripted((EngineUnavailable("away"),), GOOD), Scripted()
        scene = Scene(own, second, tries=1)
        for verdict in (None, Verdict("toxicity", "out", "block"), Verdict("pii", "out", "mask")):
            asked = exchange()
            asked.verdicts = [verdict] if verdict else []
            await scene.ask(asked)
        assert (len(own.asked), len(second.asked)) == (3, 1)
        masked_in = exchange()
        masked_in.verdicts = [Verdict("pii", "in", "mask"), Verdict("toxicity", "out", "pass")]
        await scene.ask(masked_in)
        await scene.ask(exchange())
        assert len(own.asked) == 4

    asyncio.run(run())


def test_answers_are_bounded_by_age_and_bytes() -> None:
    async def run() -> None:
        engine = Scripted()
        for cache in ({"seconds": 1e-9}, {"bytes": 0}, {"bytes": 1000}):
            scene = Scene(engine, cache=cache)
            await scene.ask(exchange())
            await scene.ask(exchange())
        assert len(engine.asked) == 6
        scene = Scene(engine, cache={"bytes": 3000})  # two answers of a thousand and nine
        for question in ("1", "2", "1", "3", "1", "2"):
            await scene.ask(exchange(question))
        assert [request.messages[1]["content"] for request in engine.asked[6:]] == ["1", "2", "3", "2"]

    asyncio.run(run())


def test_callers_share_an_answer_but_not_what_its_tags_stand_for() -> None:
    """Both asked with an address of their own; what the cache holds is the tag, for which each has a value."""

    async def run() -> None:
        engine = Scripted(("I write to <EMAIL_1>.",))
        scene, said = Scene(engine), []
        for value in ("ann@example.com", "bob@example.com"):
            answer = await scene.ask(exchange("Write to <EMAIL_1>"))
            said.append(answer.replace("<EMAIL_1>", value))
        assert said == ["I write to ann@example.com.", "I write to bob@example.com."]
        assert len(engine.asked) == 1
        held = [*scene.cache._exact.values(), *scene.cache._last.values()]
        assert {reply.text for reply in held} == {"I write to <EMAIL_1>."}

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_the_same_question_twenty_times_at_once_is_asked_once(stream: bool) -> None:
    async def run() -> None:
        engine = Scripted(("Good ", HANG, "day."))
        scene = Scene(engine)
        asking = [asyncio.ensure_future(scene.ask(exchange(stream=stream))) for _ in range(20)]
        await until(lambda: scene.count("forgeline_cache_total", result="shared") == 19)
        asking[0].cancel()  # who asked first leaves: the others are answered
        await asyncio.wait(asking[:1])
        engine.go.set()
        assert await asyncio.gather(*asking[1:]) == ["Good day."] * 19
        assert (len(engine.asked), engine.cancelled) == (1, 0)

    asyncio.run(run())


def test_when_all_leave_the_engine_is_freed_and_the_next_asks_anew() -> None:
    async def run() -> None:
        engine = Scripted((HANG,), GOOD)
        scene = Scene(engine)
        asking = [asyncio.ensure_future(scene.ask(exchange())) for _ in range(3)]
        await until(lambda: engine.asked)
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        assert engine.cancelled == 1
        assert await scene.ask(exchange()) == "Good day."

    asyncio.run(run())


def test_a_fault_is_everybodys_and_each_climbs() -> None:
    async def run() -> None:
        own, second = Scripted((EngineUnavailable("away"),)), Scripted()
        scene = Scene(own, second, tries=1)
        asked = [exchange() for _ in range(5)]
        await asyncio.gather(*(scene.ask(one) for one in asked))
        assert (len(own.asked), len(second.asked), {one.rung for one in asked}) == (1, 1, {"second"})

    asyncio.run(run())


def test_a_late_listener_hears_a_stream_from_its_beginning() -> None:
    async def run() -> None:
        engine = Scripted(("Good ", HANG, "day."))
        scene = Scene(engine)
        async with aclosing(scene.ladder.answer(exchange(stream=True))) as first:
            assert (await anext(first)).text == "Good "
            late = asyncio.ensure_future(scene.ask(exchange(stream=True)))
            await until(lambda: scene.count("forgeline_cache_total", result="shared") == 1)
            engine.go.set()
            assert await late == "Good day."
            assert [piece.text async for piece in first] == ["day."]

    asyncio.run(run())


def same(_: str) -> Any:
    """An embedding that takes every question for every other: the guard alone decides."""
    return np.ones(1, dtype=np.float32)


@pytest.fixture
def found() -> Callable[[str, str], bool]:
    def find(kept: str, asked: str) -> bool:
        async def run() -> bool:
            semantic = Semantic(Settings(), 1_000_000, 60, same)
            await semantic.keep(b"", kept, REPLY)
            return await semantic.find(b"", asked) is not None

        return asyncio.run(run())

    return find


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("Is aspirin safe for dogs?", "Is aspirin unsafe for dogs?"),
        ("Is the hotel cheap?", "Is the hotel expensive?"),
        ("Is it open?", "Isn't it open?"),
        ("Can I cancel my booking?", "Can't I cancel my booking?"),
        ("Book a table for 2", "Book a table for 3"),
        ("Book a table for two", "Book a table for ten"),
        ("Is 1.5 enough?", "Is 15 enough?"),
        ("A train from Cambridge to London", "A train from London to Cambridge"),
        ("A train to London from Cambridge", "A train from London to Cambridge"),
        ("Where is Curry Garden?", "Where is Rice House?"),
        ('What is "high"?', 'What is "low"?'),
        ("Write to <EMAIL_1> about <EMAIL_2>", "Write to <EMAIL_2> about <EMAIL_1>"),
        ("Call [PHONE]", "Call [EMAIL]"),
        ("act: Hotel-Inform\nprice: cheap", "act: Hotel-Inform\nprice: expensive"),
        ("act: Hotel-Inform\nname: x", "act: Hotel-Request\nname: x"),
        ("Do I arrive before noon?", "Do I arrive after noon?"),
        ("Does the dog bite the man?", "Does the man bite the dog?"),
        ("Tell us of jobs in IT", "Tell us of jobs in it"),
        ("Is C++ hard?", "Is C# hard?"),
        ("Is it $5?", "Is it £5?"),
        ("你能取消吗", "你不能取消吗"),
    ],
)
def test_what_cannot_mean_the_same_is_never_given(found: Callable[[str, str], bool], kept: str, asked: str) -> None:
    assert not found(kept, asked)
    assert not found(asked, kept)


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("What is the phone number of Curry Garden?", "Please tell me the phone number of curry garden, thanks"),
        ("What time does the museum open?", "When does the museum open?"),
        ("I would like a table for 2 at 12:00", "Hello, I want a table for 2 at 12:00 please"),
    ],
)
def test_the_frame_around_a_question_does_not_matter(found: Callable[[str, str], bool], kept: str, asked: str) -> None:
    assert found(kept, asked)


def test_the_real_embedding_decides_beside_the_guard() -> None:
    async def run() -> None:
        scene = Scene(engine := Scripted(), cache={"semantic": {"threshold": 0.9}})
        for question, rung in (
            ("What is the phone number of Curry Garden?", "own"),
            ("Could you tell me the phone number of Curry Garden?", "semantic"),
            ("Is aspirin safe for dogs?", "own"),
            ("Is aspirin unsafe for dogs?", "own"),
            ("What is aspirin?", "own"),
            ("Give me aspirin", "own"),  # the same core; the embeddings differ
        ):
            asked = exchange(question)
            await scene.ask(asked)
            assert asked.rung == rung, question
        other = exchange("Tell me the phone number of Curry Garden", tenant="b")
        await scene.ask(other)
        assert (other.rung, len(engine.asked)) == ("own", 6)
        assert scene.count("forgeline_cache_total", result="semantic") == 1

    asyncio.run(run())
