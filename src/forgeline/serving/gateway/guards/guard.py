"""What a guard is: it reads a passage, and tells what stands where in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol


class Finding(NamedTuple):
    """What was found, by a name such as `account_number`, and where in the passage; no `end` is its end."""

    kind: str
    start: int = 0
    end: int | None = None


class Passage(NamedTuple):
    """A text to judge: one message of a request, or some of a reply.

    `messages` are the request's (role, content), as the model sees them once they are masked. `facts` are what else
    the model was told. `last` says that no more of the request or the reply follows.
    """

    text: str
    side: Literal["in", "out"]
    messages: tuple[tuple[str, str], ...]
    role: str = "user"
    last: bool = True
    facts: tuple[str, ...] = ()

    def told(self) -> str:
        """Return all that the model was told."""
        return "\n".join([*(content for _, content in self.messages), *self.facts])


class Guard(Protocol):
    """Looks for one thing. It may be asked from several threads at once, and keeps nothing of what it reads."""

    def inspect(self, passage: Passage) -> Iterable[Finding]:
        """Return what is wrong with a passage, in the order of the text; nothing if it may pass."""
        ...
