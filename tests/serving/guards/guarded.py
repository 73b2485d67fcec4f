"""A scripted engine, requests without a server, and guards of which few are on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from forgeline.config.schema.serve.guards import Guards as Settings
from forgeline.serving.engines import GenerationRequest, Piece, TokenLogprob, Usage
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.guards import Guards, Masks

PROJECT = Path(__file__).parents[3]
OFF = {"action": "off"}
QUIET = dict.fromkeys(
    ("pii", "secrets", "injection", "topic", "length", "toxicity", "leak", "policy", "ungrounded"), OFF
)


def guards(**settings: Any) -> Guards:
    """Return guards of which only those named are on."""
    return Guards(Settings.model_validate({**QUIET, **settings}), PROJECT)


def exchange(*contents: str, stream: bool = True, stop: tuple[str, ...] = ()) -> Exchange:
    messages = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": text} for place, text in enumerate(contents)
    ]
    request = GenerationRequest(messages, 96, 0.0, stop=stop)
    return Exchange("r1", Caller("key", "tenant", frozenset()), request, stream=stream)


async def engine(*texts: str, logprobs: bool = False) -> AsyncGenerator[Piece]:
    """Say texts, a piece each, and stop."""
    for number, text in enumerate(texts, start=1):
        told = (TokenLogprob(text, -0.5),) if logprobs else ()
        yield Piece(text, Usage(7, number), "stop" if number == len(texts) else None, told)


def sent(on: Guards, one: Exchange, *texts: str, masks: Masks | None = None, logprobs: bool = False) -> list[Piece]:
    """Return what goes out of a reply that comes in these pieces."""

    async def out() -> list[Piece]:
        given = await on.inbound(one) if masks is None else masks
        return [piece async for piece in on.outbound(one, engine(*texts, logprobs=logprobs), given)]

    return asyncio.run(out())


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
