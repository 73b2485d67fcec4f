"""A reply by windows: what the model has said waits until the guards have read to the end of its sentence."""

from __future__ import annotations

import re
from collections import deque

from forgeline.serving.engines import Piece, TokenLogprob, Usage
from forgeline.serving.gateway.guards.guard import Finding
from forgeline.serving.gateway.guards.masks import REMOVED, replaced

SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|\n+")
SPACE = re.compile(r"\s+")
MARGIN = 64  # characters behind a cut within a sentence, which the guards have read too
TAIL = 64  # characters in front of a window, which tell the guards what it is about


class Windows:
    """The text that waits, and what has gone; `size` characters without the end of a sentence are a window too.

    With a size of 0 nothing waits; without a size the whole reply is one window.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self.waiting = ""
        self.tail = ""
        self.usage = Usage(0, 0)
        self.changed = False  # whether the text that was last taken is another than came
        self._gone = self._come = self._shrunk = 0
        self._removed = False
        self._logprobs: deque[tuple[int, tuple[TokenLogprob, ...]]] = deque()

    def add(self, piece: Piece) -> int:
        """Take a piece in, and return up to where what waits is a window; 0 if it is not one yet."""
        self.waiting += piece.text
        self._come += len(piece.text)
        self.usage = piece.usage
        if piece.logprobs:
            self._logprobs.append((self._come, piece.logprobs))
        if piece.finish_reason or self._size == 0:
            return len(self.waiting)
        return 0 if self._size is None else self._cut(self._size)

    def _cut(self, size: int) -> int:
        ends = [match.end() for match in SENTENCE_END.finditer(self.waiting)]
        if ends:
            return ends[-1]
        if len(self.waiting) < size:
            return 0
        room = len(self.waiting) - MARGIN
        return max((match.end() for match in SPACE.finditer(self.waiting, 0, room)), default=room)

    def within(self, found: list[Finding], cut: int) -> tuple[list[Finding], int]:
        """Return the findings that are of this window, as spans of what waits, and where the window ends for them.

        What begins within the window and ends behind it is left, with what follows, for the next one.
        """
        offset = len(self.tail)
        here = [Finding(kind, max(0, start - offset), (end or 0) - offset) for kind, start, end in found]
        here = [one for one in here if (one.end or 0) > 0 and one.start < cut]
        for one in here:
            if (one.end or 0) > cut:
                cut = one.start or (one.end or 0)
        return [one for one in here if one.start < cut], cut

    def remove(self, found: list[Finding], cut: int) -> int:
        """Put another text in the place of findings of a window, and return where it ends now."""
        before = len(self.waiting)
        self.waiting = replaced(self.waiting, [(one, REMOVED) for one in found])
        self._shrunk += before - len(self.waiting)
        self._removed = True
        return cut - (before - len(self.waiting))

    def take(self, cut: int) -> str:
        """Return what waited up to `cut`, which has passed."""
        text, self.waiting = self.waiting[:cut], self.waiting[cut:]
        self._gone += cut + self._shrunk
        self.changed, self._removed, self._shrunk = self._removed, False, 0
        self.tail = (self.tail + text)[-TAIL:]
        return text

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return those of the pieces that have gone whole since they were last asked for."""
        gone: list[TokenLogprob] = []
        while self._logprobs and self._logprobs[0][0] <= self._gone:
            gone += self._logprobs.popleft()[1]
        return tuple(gone)
