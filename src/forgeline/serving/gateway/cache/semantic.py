"""Answers to questions that mean the same: a guard decides whether they can, a cosine whether they do.

A cosine alone takes "safe" for "unsafe". So two questions can mean the same only if their *cores* are equal: what is
left, in order, once the polite frame around a question and its articles are taken off. Every number, negation, name,
quoted value, tag, preposition and other word of the core must be there in both.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from forgeline.config.schema.serve.ladder import Semantic as Settings
from forgeline.serving.engines import Piece

OVERHEAD = 3000  # bytes of an entry beside its texts; half of it is the embedding
VARIANTS = 8  # questions of one core whose answers are kept
CONTRACTED = (
    (re.compile(r"\bcan(?:not|['’]t)\b"), "can not"),
    (re.compile(r"\bwon['’]t\b"), "will not"),
    (re.compile(r"n['’]t\b"), " not"),
    (re.compile(r"\b(what|where|when|who|how|that|there|it)['’]s\b"), r"\1 is"),
    (re.compile(r"\bi['’]d\b"), "i would"),
    (re.compile(r"\bwhat time\b"), "when"),
)
FRAMES = re.compile(
    r"(?:hello|hi|hey|good (?:morning|afternoon|evening)|please|kindly|excuse me|sorry|thanks|thank you"
    r"|(?:can|could|would|will) you (?:please )?(?:tell|give|show|send|find) me|tell me|give me|show me|let me know"
    r"|(?:can|could|may) i (?:please )?(?:have|get|know)|do you (?:know|have)"
    r"|i (?:would like|want|need|have|wish) to (?:know|have|get)|i (?:would like|want|need)|i am looking for"
    r"|what (?:is|are)|which (?:is|are))\b[\s,.!:]*"
)
CLOSINGS = re.compile(r"[\s,.!?]*\b(?:please|thanks|thank you|for me)[\s.!?]*$")
TOKEN = re.compile(r"<\w+>|\[\w+\]|\w+(?:[.,:'’/-]\w+)*|[^\w\s.,!?;]")
ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Entry:
    """An answered question: the direction of its embedding, and its answer."""

    direction: NDArray[np.float32]
    reply: Piece


class Semantic:
    """Answers by the core of their question; `asked` is all that must be the same beside it."""

    def __init__(
        self, settings: Settings, size: int, seconds: float, embed: Callable[[str], NDArray[np.float32]] | None = None
    ) -> None:
        self._threshold = settings.threshold
        self._embed = embed or _minilm()
        self._groups: TTLCache[tuple[bytes, tuple[str, ...]], tuple[Entry, ...]] = TTLCache(
            size, seconds, getsizeof=lambda group: sum(OVERHEAD + entry.reply.size for entry in group)
        )

    async def find(self, asked: bytes, question: str) -> Piece | None:
        """Return the answer to the nearest question of the same core, if it is near enough."""
        group = self._groups.get((asked, core(question)))
        if not group:
            return None  # most questions: nothing is embedded
        direction = await asyncio.to_thread(self._embed, question)
        cosines = [float(entry.direction @ direction) for entry in group]
        best = int(np.argmax(cosines))
        return group[best].reply if cosines[best] >= self._threshold else None

    async def keep(self, asked: bytes, question: str, reply: Piece) -> None:
        """Keep the answer to a question."""
        entry = Entry(await asyncio.to_thread(self._embed, question), reply)
        key = (asked, core(question))
        self._groups[key] = (entry, *self._groups.get(key, ()))[:VARIANTS]


def core(question: str) -> tuple[str, ...]:
    """Return the words of a question that another must share, in order; words in capitals stay as they are."""
    text = re.sub(r"\b(?![A-Z]{2,}\b)[A-Z]\w*", lambda word: word[0].lower(), question).strip()
    for contracted, written in CONTRACTED:
        text = contracted.sub(written, text)
    while (frame := FRAMES.match(text)) and frame.end() < len(text):
        text = text[frame.end() :]
    text = CLOSINGS.sub("", text)
    return tuple(token for token in TOKEN.findall(text) if token not in ARTICLES)


def _minilm() -> Callable[[str], NDArray[np.float32]]:
    from forgeline.models.embed import embed  # and so torch: only where this cache is on

    embed(["once"])  # what it needs is missed at the start, not at the first question
    return lambda text: embed([text])[0]
