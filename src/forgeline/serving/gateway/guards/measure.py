"""What each guard costs, what it finds, and what it finds wrongly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import polars

from forgeline.config.schema.serve.guards import Guards as Settings
from forgeline.data.bias.intervals import wilson
from forgeline.data.rules.toxicity import corpus, train
from forgeline.errors import SourceError
from forgeline.records import Record
from forgeline.serving.engines import GenerationRequest, Piece, Usage
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.guards import held_out, injection_training
from forgeline.serving.gateway.guards.desk import Guards
from forgeline.serving.gateway.guards.guard import Guard, Passage
from forgeline.serving.gateway.guards.held_out import Set
from forgeline.serving.gateway.guards.injection import Injections
from forgeline.serving.gateway.guards.personal import Leak, PersonalData, SecretData
from forgeline.serving.gateway.guards.replies import Toxicities, Ungrounded
from forgeline.serving.gateway.guards.words import Lengths, Policies, Topics

CONFIDENCE = 0.95
Sets = Callable[[], list[Set]]


def measure(settings: Settings, records: Sequence[Record], root: Path) -> dict[str, Any]:
    """Return for each guard its cost, and the share of each set's passages that it finds something in.

    Cost is of one passage, over the test prompts or replies. Lengths, terms and patterns are found by definition. The
    toxicity classifier is measured by a twin that never saw the held-out texts.
    """
    prompts, replies = held_out.shipped(records)
    kinds, regions = settings.pii.kinds, settings.pii.regions
    personal = PersonalData(kinds, regions)
    plans: dict[str, tuple[Guard, Set, Sets]] = {
        "length": (Lengths(settings.length), prompts, list),
        "topic": (Topics(settings.topic), prompts, list),
        "policy": (Policies(settings.policy), replies, list),
        "pii": (personal, prompts, lambda: [*held_out.personal(kinds, regions), replies]),
        "secrets": (
            SecretData(settings.secrets),
            prompts,
            lambda: [*held_out.personal(("secret", "url_credentials"), ()), replies],
        ),
        "injection": (Injections(settings.injection), prompts, lambda: [*held_out.injections(), replies]),
        "leak": (Leak(personal), replies, lambda: [held_out.leaks(replies, kinds, regions)]),
        "ungrounded": (Ungrounded(), replies, lambda: [held_out.misstated(replies)]),
    }
    found = {name: _measured(*plan) for name, plan in plans.items()}
    found["toxicity"] = _toxicity(settings, replies)
    return {"guards": found, "together": asyncio.run(_together(settings, records, root))}


def _measured(guard: Guard, benign: Set, sets: Sets) -> dict[str, Any]:
    try:
        return {"cost": cost(guard, benign.passages), "sets": [_share(guard, one) for one in (benign, *sets())]}
    except SourceError as fault:
        return {"cost": cost(guard, benign.passages), "sets": [_share(guard, benign)], "not_measured": str(fault)}


def _share(guard: Guard, held: Set) -> dict[str, Any]:
    hits = sum(any(True for _ in guard.inspect(passage)) for passage in held.passages)
    n = len(held.passages)
    low, high = wilson(hits, n, CONFIDENCE)
    return {
        "set": held.name,
        "made": held.made,
        "measures": "recall" if held.wrong else "false positives",
        "n": n,
        "share": hits / n if n else None,
        "low": low,
        "high": high,
    }


def cost(guard: Guard, passages: Sequence[Passage]) -> dict[str, float]:
    """Return the median and the 99th percentile of what a passage takes, in µs."""
    taken = []
    for passage in passages:
        began = time.perf_counter()
        list(guard.inspect(passage))
        taken.append(time.perf_counter() - began)
    return _quantiles(taken)


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    median, most = numpy.quantile(seconds, (0.5, 0.99)) * 1e6
    return {"median_us": round(float(median), 1), "p99_us": round(float(most), 1)}


def _toxicity(settings: Settings, replies: Set) -> dict[str, Any]:
    try:
        guard = Toxicities(settings.toxicity)
        texts, toxic = corpus()
    except SourceError as fault:
        return {"cost": None, "sets": [], "not_measured": str(fault)}
    out = numpy.array([injection_training.held_out(text) for text in texts])
    spent = cost(guard, replies.passages)
    guard.use(train(texts.filter(~out), toxic[~out], corrected=True).scorer())

    def said(name: str, wrong: bool, made: str, chosen: Any) -> Set:
        held: polars.Series = texts.filter(chosen & out)
        return Set(name, wrong, made, [Passage(text, "out", ()) for text in held][: held_out.SAMPLE])

    sets = [
        replies,
        said("toxic sentences", True, "held-out sentences of the web that Perspective scored 0.5 or more", toxic),
        said("civil texts", False, "held-out sentences of ten public sets", ~toxic),
    ]
    return {"cost": spent, "sets": [_share(guard, one) for one in sets]}


async def _together(settings: Settings, records: Sequence[Record], root: Path) -> dict[str, dict[str, float]]:
    """Return what all guards that are on take of a test prompt, and of the reply that a person wrote to it, at once."""
    guards = Guards(settings, root)
    caller = Caller("nobody", "nobody", frozenset())
    taken: dict[str, list[float]] = {"in": [], "out": []}
    for record in records[: held_out.SAMPLE]:
        exchange = Exchange(record.id, caller, GenerationRequest(record.prompt, 96, 0.0))
        began = time.perf_counter()
        masks = await guards.inbound(exchange)
        between = time.perf_counter()
        async for _ in guards.outbound(exchange, _reply(record.completion), masks):
            pass
        taken["in"].append(between - began)
        taken["out"].append(time.perf_counter() - between)
    return {side: _quantiles(seconds) for side, seconds in taken.items()}


async def _reply(text: str) -> AsyncGenerator[Piece]:
    yield Piece(text, Usage(1, 1), "stop")
