"""One reply on its way out: window by window through the guards, then restored for who asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forgeline.serving.engines import Piece
from forgeline.serving.gateway.exchange import Exchange
from forgeline.serving.gateway.guards.guard import Passage
from forgeline.serving.gateway.guards.masks import Masks, Restorer
from forgeline.serving.gateway.guards.posts import Blocked, Post, Record
from forgeline.serving.gateway.guards.windows import Windows


class Reply:
    """A reply; `scrub` puts the names of their kinds in place of personal data before anything is kept."""

    def __init__(
        self,
        exchange: Exchange,
        masks: Masks,
        record: Record,
        posts: Sequence[Post],
        size: int | None,
        scrub: Callable[[str], str],
    ) -> None:
        self._exchange, self._record, self._posts, self._scrub = exchange, record, posts, scrub
        self._messages = tuple((turn["role"], turn["content"]) for turn in exchange.request.messages)
        self._windows, self._restorer = Windows(size), Restorer(masks)
        self._said: list[str] = []
        self._closed = False

    async def passed(self, piece: Piece, withheld: str) -> Piece | None:
        """Return what may go out now that a piece has come; the last if the piece is, or if something is blocked."""
        windows, last = self._windows, piece.finish_reason is not None
        cut = windows.add(piece)
        try:
            text = await self._judged(cut, last) if cut else ""
        except Blocked:
            gap = " " if self._said and not self._said[-1][-1:].isspace() else ""
            self._said.append(gap + withheld)
            self.close()
            return Piece(gap + withheld, windows.usage, "content_filter")
        self._said += [text] if text else []
        told = self._restorer.feed(text, last)
        logprobs, changed = windows.logprobs(), windows.changed or told != text
        if last:
            self.close()
        if not (told or last):
            return None
        return Piece(told, windows.usage, piece.finish_reason, () if changed else logprobs)

    async def _judged(self, cut: int, last: bool) -> str:
        windows = self._windows
        for post in self._posts:
            text = windows.tail + windows.waiting
            passage = Passage(text, "out", self._messages, "assistant", last, self._exchange.facts)
            found, cut = windows.within(await self._record.ask(post, passage), cut)
            if self._record.act(post, found):
                cut = windows.remove(found, cut)
        return windows.take(cut)

    def close(self) -> None:
        """Write into the exchange what was said and found, once."""
        if not self._closed:
            self._closed = True
            self._exchange.reply = self._scrub("".join(self._said))
            self._exchange.verdicts += self._record.verdicts()
