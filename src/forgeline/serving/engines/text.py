"""Tokens to text while they come: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from forgeline.serving.engines import GenerationRequest, Piece, TokenLogprob, Usage
from forgeline.serving.engines.prompt import Prompt


class Spoken:
    """What has been said of one reply to a prompt; it knows when the reply has ended."""

    def __init__(self, tokenizer: Any, stop_ids: Collection[int], request: GenerationRequest, prompt: Prompt) -> None:
        self._stop_ids = set(stop_ids)
        self._max_tokens = request.max_tokens
        self._text = TextStream(tokenizer, request.stop)
        self._prompt = prompt
        self._count = 0

    def add(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Piece:
        """Return what one more token brings; the first brings the facts too."""
        facts = self._prompt.facts if self._count == 0 else ()
        return replace(self._added(token, logprobs), facts=facts)

    def _added(self, token: int, logprobs: tuple[TokenLogprob, ...]) -> Piece:
        self._count += 1
        usage = Usage(len(self._prompt.tokens), self._count)
        if token in self._stop_ids:
            return Piece(self._text.finish(), usage, "stop")
        text = self._text.push(token)
        if self._text.stopped:
            return Piece(text, usage, "stop", logprobs)
        if self._count < self._max_tokens:
            return Piece(text, usage, None, logprobs)
        text += self._text.finish()
        return Piece(text, usage, "stop" if self._text.stopped else "length", logprobs)


class TextStream:
    """Decodes one reply token by token; the parts joined are the whole reply decoded at once.

    A character may span tokens and a token's text may depend on the one before it, so each step decodes
    a short window and gives what is new, as text-generation-inference does.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._window = 0  # where the window begins
        self._given = 0  # tokens whose text has been decoded
        self._held = ""  # text that may turn out to be the start of a stop string

    def push(self, token: int) -> str:
        """Return the text that is certain after one more token."""
        self._ids.append(token)
        text = self._new_text()
        if text.endswith("\ufffd"):  # the token ends within a character
            return ""
        self._window, self._given = self._given, len(self._ids)
        return self._release(text)

    def finish(self) -> str:
        """Return what was held back when the reply ended."""
        text = self._release(self._new_text())
        return text if self.stopped else text + self._held

    def _new_text(self) -> str:
        known: str = self._tokenizer.decode(self._ids[self._window : self._given], skip_special_tokens=True)
        window: str = self._tokenizer.decode(self._ids[self._window :], skip_special_tokens=True)
        return window[len(known) :]

    def _release(self, text: str) -> str:
        text = self._held + text
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[: min(ends)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
