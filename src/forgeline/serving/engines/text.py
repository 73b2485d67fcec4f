"""Tokens to text while they come: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from typing import Any


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
