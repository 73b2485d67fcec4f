"""What a recogniser is: cheap gates in front of an exact search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

Span = tuple[int, int]
NEAR = 60  # characters in front of a value in which its context words are looked for


def compact(value: str) -> str:
    """Return a value's letters and digits, in capitals: one form for all its writings."""
    return "".join(filter(str.isalnum, value)).upper()


class Recogniser(NamedTuple):
    """How one form of one kind of personal data is found.

    `gates` are regular expressions in the syntax common to Python and Rust; whatever text `find` finds
    something in must match them all. They are the search's own pattern without what narrows it
    (look-around, check digits), or a part of it. `canonical` makes the writings of one value equal.
    """

    kind: str
    gates: tuple[str, ...]
    find: Callable[[str], Iterable[Span]]
    canonical: Callable[[str], str] = compact


def recognise(
    kind: str, pattern: str, valid: Callable[[str], bool] | None = None, context: str | None = None
) -> Recogniser:
    """Return the recogniser of a pattern that stands alone between non-word characters.

    `valid` has the last word; `context`, alternatives, names the words of which one must stand in front.
    """
    search = re.compile(rf"(?<![\w-])(?<!\d[.,/])(?:{pattern})(?![\w-]|[.,/]\d)")
    words = near(context) if context else None

    def find(text: str) -> Iterator[Span]:
        for match in search.finditer(text):
            start, end = match.span()
            if words and not words.search(text, max(0, start - NEAR), start):
                continue
            if valid is None or valid(match[0]):
                yield start, end

    return Recogniser(kind, (pattern, f"(?i:{context})") if context else (pattern,), find)


def near(words: str) -> re.Pattern[str]:
    """Return the pattern of a text that ends in one of the words, in any case, and neither number nor tag after it."""
    return re.compile(rf"(?i)(?<!\w)(?:{words})(?!\w)[^0-9\[\]]*$")
