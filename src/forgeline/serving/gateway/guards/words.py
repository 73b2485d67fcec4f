"""Rules in words: what may be spoken of, how long a request may be, what no reply may say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow
from pyarrow import compute

from forgeline.config.schema.serve.guards import Length, Policy, Topic
from forgeline.errors import ServingError
from forgeline.serving.gateway.guards.fold import folded, unfolded
from forgeline.serving.gateway.guards.guard import Finding, Passage

OPEN, CLOSE = "\ue000", "\ue001"  # for private use: nothing in a text means them
UNMARKED = str.maketrans(OPEN + CLOSE, "  ")


class Topics:
    """Finds denied terms in messages, and a last message without any allowed one; as whole words, in any case."""

    def __init__(self, rule: Topic) -> None:
        self._denied, self._allowed = _terms(rule.denied), _terms(rule.allowed)

    def inspect(self, passage: Passage) -> Iterator[Finding]:
        """Yield the denied terms, or the whole of a last message that has no allowed one."""
        plain, places = folded(passage.text)
        if self._denied:
            for match in self._denied.finditer(plain):
                yield Finding("denied_term", *unfolded(places, *match.span()))
        if self._allowed and passage.last and not self._allowed.search(plain):
            yield Finding("other_topic")


class Lengths:
    """Finds requests that are too long."""

    def __init__(self, rule: Length) -> None:
        self._rule = rule

    def inspect(self, passage: Passage) -> Iterator[Finding]:
        """Yield which bounds the messages are beyond, all together."""
        texts = [content for _, content in passage.messages]
        if len(texts) > self._rule.turns:
            yield Finding("turns")
        if sum(map(len, texts)) > self._rule.characters:
            yield Finding("characters")
        elif sum(len(text.encode()) for text in texts) > 4 * self._rule.tokens:
            yield Finding("tokens")


class Policies:
    """Finds denied patterns, by regular expressions of RE2: no pattern takes more than linear time.

    Raises:
        ServingError: for a pattern that cannot be read.
    """

    def __init__(self, rule: Policy) -> None:
        self._patterns = rule.denied
        for pattern in rule.denied:
            try:
                list(_matches(pattern, ""))
            except pyarrow.ArrowInvalid as fault:
                raise ServingError(
                    f"serve.guards.policy.denied: {pattern!r} is not a regular expression of RE2 ({fault})."
                ) from None

    def inspect(self, passage: Passage) -> Iterable[Finding]:
        """Return the matches of all patterns."""
        plain, places = folded(passage.text)
        plain = plain.translate(UNMARKED)
        spans = [span for pattern in self._patterns for span in _matches(pattern, plain)]
        return [Finding("denied_pattern", *unfolded(places, *span)) for span in sorted(spans)]


def _matches(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield where a pattern matches: RE2 marks what it matched, and the marks are counted out again."""
    held = pyarrow.scalar(text)
    if not compute.match_substring_regex(held, pattern).as_py():
        return
    marked: str = compute.replace_substring_regex(held, f"({pattern})", rf"{OPEN}\1{CLOSE}").as_py()
    start = marked.find(OPEN)
    marks = 0
    while start >= 0:
        end = marked.index(CLOSE, start)
        if end > start + 1:
            yield start - marks, end - marks - 1
        marks += 2
        start = marked.find(OPEN, end)


def _terms(terms: Sequence[str]) -> re.Pattern[str] | None:
    either = "|".join(re.escape(folded(term)[0]) for term in sorted(terms, key=len, reverse=True))
    return re.compile(rf"(?i)(?<!\w)(?:{either})(?!\w)") if terms else None
