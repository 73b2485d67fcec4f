"""Guards on duty: each with the rule it works under, the time it may take, and what it has found so far."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from forgeline.config.schema.serve.guards import Rule
from forgeline.serving.gateway.exchange import Verdict
from forgeline.serving.gateway.guards.guard import Finding, Guard, Passage
from forgeline.serving.gateway.guards.threads import Overdue, Threads

logger = logging.getLogger("forgeline.guards")
INLINE = 8_000  # characters up to which a built-in guard works on the event loop: it takes milliseconds at most
KIND = re.compile(r"[a-z][a-z0-9_]{0,39}")  # tags are made of it, and no text of a caller's fits in
GRAVITY = ("pass", "flag", "mask", "block")


class Blocked(Exception):
    """What was read must not pass; `failed` says that a guard could not tell."""

    def __init__(self, guard: str, kinds: Iterable[str] = (), failed: bool = False) -> None:
        super().__init__(guard)
        self.guard, self.kinds, self.failed = guard, tuple(dict.fromkeys(kinds)), failed


@dataclass
class Post:
    """A guard, its name and its rule; a guard that is not `trusted` always works in a thread."""

    name: str
    guard: Guard
    rule: Rule
    trusted: bool = True
    threads: Threads = field(init=False)

    def __post_init__(self) -> None:
        self.threads = Threads(f"guard-{self.name}")

    async def inspect(self, passage: Passage) -> list[Finding]:
        """Return what the guard finds, in order.

        Raises:
            Overdue: if it takes longer than its rule allows.
            Exception: whatever the guard raises, and ValueError or TypeError for findings that make no sense.
        """
        if self.trusted and len(passage.text) <= INLINE:
            return self._findings(passage)
        return await self.threads.run(lambda: self._findings(passage), self.rule.limit)

    def _findings(self, passage: Passage) -> list[Finding]:
        size = len(passage.text)
        found = []
        for one in self.guard.inspect(passage):
            kind, start, end = Finding(*one)
            end = size if end is None else end
            if not (KIND.fullmatch(kind) and 0 <= start <= end <= size):
                raise ValueError("a finding is a short name and a span within the text")
            found.append(Finding(kind, start, end))
        return sorted(found, key=lambda one: one.start)


class Record:
    """What the guards of one side have found of one exchange, from which their verdicts are made."""

    def __init__(self, posts: Sequence[Post], side: Literal["in", "out"]) -> None:
        self._side = side
        self._seconds = dict.fromkeys((post.name for post in posts), 0.0)
        self._kinds: dict[str, Counter[str]] = {post.name: Counter() for post in posts}
        self._actions: dict[str, Literal["pass", "flag", "mask", "block"]] = dict.fromkeys(self._seconds, "pass")
        self._asked: set[str] = set()

    async def ask(self, post: Post, passage: Passage) -> list[Finding]:
        """Return what a guard finds; a guard that fails finds nothing, or blocks, as its rule says.

        Raises:
            Blocked: if it fails and its rule says `closed`.
        """
        began = time.perf_counter()
        self._asked.add(post.name)
        try:
            return await post.inspect(passage)
        except Exception as fault:
            # The message of an exception may quote the text: only its kind is told.
            reason = str(fault) if isinstance(fault, Overdue) else type(fault).__name__
            logger.warning("guard %s failed (%s), fail-%s", post.name, reason, post.rule.on_error)
            closed = post.rule.on_error == "closed"
            self._note(post.name, "block" if closed else "flag", [f"failed: {reason}"])
            if closed:
                raise Blocked(post.name, failed=True) from None
            return []
        finally:
            self._seconds[post.name] += time.perf_counter() - began

    def act(self, post: Post, findings: Sequence[Finding]) -> bool:
        """Note findings, and say whether other texts must stand in their place.

        Raises:
            Blocked: if they must not pass.
        """
        action = post.rule.action
        if not findings or action == "off":
            return False
        kinds = [one.kind for one in findings]
        self._note(post.name, action, kinds)
        if action == "block":
            raise Blocked(post.name, kinds)
        return action == "mask"

    def verdicts(self) -> list[Verdict]:
        """Return one verdict of each guard that was asked."""
        return [
            Verdict(name, self._side, self._actions[name], _told(self._kinds[name]), seconds)
            for name, seconds in self._seconds.items()
            if name in self._asked
        ]

    def _note(self, name: str, action: Literal["flag", "mask", "block"], kinds: Iterable[str]) -> None:
        self._kinds[name].update(kinds)
        self._actions[name] = max(self._actions[name], action, key=GRAVITY.index)


def _told(kinds: Counter[str]) -> str:
    return ", ".join(kind if times == 1 else f"{kind} ×{times}" for kind, times in kinds.items())
