"""How often the semantic cache answers, and how often wrongly, with its guard and by the cosine alone.

Command: python benchmarks/semantic_cache.py
Needs `forgeline data` to have run. Two sets, both asked of an empty cache in turn:
- the shipped test prompts, of which no two ask for the same: every hit is a wrong one;
- questions of customers about the names in them, from templates: one is kept, then asked in other words (a hit is
  right), and with another name, number, direction, negation or antonym (a hit is wrong).
The intervals are Wilson's, of 95 %; they say nothing of questions of another kind. The templates have the guard's own
author: expect fewer hits among what customers really write. A wrong hit is what to look at.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from forgeline.config.schema.serve.ladder import Semantic as Settings
from forgeline.models.embed import embed
from forgeline.serving.engines import Piece, Usage
from forgeline.serving.gateway.cache import semantic
from forgeline.serving.gateway.cache.semantic import Semantic

PROJECT = Path(__file__).parents[1]
REPLY = Piece("", Usage(0, 0), "stop")
THRESHOLDS = (0.85, 0.9, 0.95)
NAMES = 40
ASKED = (  # a question, others that mean the same, others that do not
    (
        "What is the phone number of {name}?",
        (
            "Could you tell me the phone number of {name}?",
            "Please give me the phone number of {name}, thanks",
            "I would like to know the phone number of {name}",
            "How can I reach {name} by phone?",
            "{name}: what's their phone number?",
        ),
        ("What is the phone number of {other}?", "What is the postcode of {name}?", "Is {name} a phone shop?"),
    ),
    (
        "I need a table for 2 at {name} on friday at 19:00",
        (
            "Hi, I want a table for 2 at {name} on friday at 19:00 please",
            "Can I have a table for 2 at {name} on friday at 19:00?",
            "Please book a table at {name}, friday 19:00, two people",
        ),
        (
            "I need a table for 3 at {name} on friday at 19:00",
            "I need a table for 2 at {name} on friday at 18:00",
            "I need a table for 2 at {name} on sunday at 19:00",
            "I need a table for 2 at {other} on friday at 19:00",
            "I don't need a table for 2 at {name} on friday at 19:00",
        ),
    ),
    (
        "Is {name} expensive?",
        ("Tell me, is {name} expensive?", "Excuse me, is {name} expensive?", "Does it cost a lot to stay at {name}?"),
        ("Is {name} cheap?", "Is {name} inexpensive?", "Isn't {name} expensive?", "Is {other} expensive?"),
    ),
    (
        "When does the train from {name} to {other} leave?",
        (
            "What time does the train from {name} to {other} leave?",
            "Can you tell me when does the train from {name} to {other} leave?",
            "The departure time of the train from {name} to {other}, please",
        ),
        (
            "When does the train from {other} to {name} leave?",
            "When does the train to {name} from {other} leave?",
            "When does the train from {name} to {other} arrive?",
            "When does the last train from {name} to {other} leave?",
        ),
    ),
    (
        "Do you have free parking at {name}?",
        ("Hello, do you have free parking at {name}?", "Is parking free at {name}?", "Can I park for free at {name}?"),
        (
            "Do you have parking at {name}?",
            "Do you have free wifi at {name}?",
            "Do you not have free parking at {name}?",
        ),
    ),
)


@cache
def direction(text: str) -> NDArray[np.float32]:
    """Return a question's embedding."""
    found: NDArray[np.float32] = embed([text])[0]
    return found


def main() -> None:
    """Print hit rates and wrong-hit rates."""
    path = PROJECT / "data/splits/test.jsonl"
    prompts = [json.loads(line)["messages"][-2]["content"] for line in path.open(encoding="utf-8")]
    names = sorted({name for prompt in prompts for name in re.findall(r"^name: ([a-z ]+)$", prompt, re.MULTILINE)})
    chosen = names[:: max(1, len(names) // NAMES)][:NAMES]
    right, wrong = _pairs(chosen)
    guarded = semantic.core
    for guard, core in (("guarded", guarded), ("cosine alone", lambda _: ())):
        for threshold in THRESHOLDS:
            print(f"{guard}, threshold {threshold}: ", end="")
            print(f"answers {_share(_hits(core, threshold, right))} of what means the same; wrong answers: ", end="")
            print(f"{_share(_hits(core, threshold, wrong))} of what does not, ", end="")
            print(f"{_share(_in_turn(core, threshold, prompts))} of the test prompts")


def _pairs(names: list[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    right, wrong = [], []
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        for question, same, different in ASKED:
            filled = [text.format(name=name, other=other) for text in (question, *same, *different)]
            right += [(filled[0], text) for text in filled[1 : 1 + len(same)]]
            wrong += [(filled[0], text) for text in filled[1 + len(same) :]]
    return right, wrong


def _hits(core: Callable[[str], tuple[str, ...]], threshold: float, pairs: list[tuple[str, str]]) -> list[bool]:
    async def hit(kept: str, asked: str) -> bool:
        known = _empty(core, threshold)
        await known.keep(b"", kept, REPLY)
        return await known.find(b"", asked) is not None

    async def hits() -> list[bool]:
        return [await hit(*pair) for pair in pairs]

    return asyncio.run(hits())


def _in_turn(core: Callable[[str], tuple[str, ...]], threshold: float, prompts: list[str]) -> list[bool]:
    async def hits() -> list[bool]:
        known, found = _empty(core, threshold), []
        for prompt in prompts:
            found.append(await known.find(b"", prompt) is not None)
            if not found[-1]:
                await known.keep(b"", prompt, REPLY)
        return found

    return asyncio.run(hits())


def _empty(core: Callable[[str], tuple[str, ...]], threshold: float) -> Semantic:
    semantic.core = core
    semantic.VARIANTS = 10_000  # all are compared, as a cache without groups does
    return Semantic(Settings(threshold=threshold), 10**9, 3600, direction)


def _share(hits: list[bool]) -> str:
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return f"{100 * sum(hits) / len(hits):.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}] of {len(hits)}"


if __name__ == "__main__":
    main()
