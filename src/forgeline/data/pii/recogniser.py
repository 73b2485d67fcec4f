"""What a recogniser is: a cheap gate in front of an exact search."""

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
    """How one kind of personal data is found.

    `gate` is a regular expression in the syntax common to Python and Rust; whatever text `find` finds
    something in must match it. It is the search's own pattern without what narrows it (look-around,
    check digits, context), or a part of it. `canonical` makes the writings of one value equal.
    """

    kind: str
    gate: str
    find: Callable[[str], Iterable[Span]]
    canonical: Callable[[str], str] = compact


class Form(NamedTuple):
    """A pattern that stands alone between non-word characters, what validates it, and words it needs nearby."""

    pattern: str
    valid: Callable[[str], bool] | None = None
    context: str | None = None


def recognise(kind: str, forms: Iterable[Form]) -> Recogniser:
    """Return a recogniser of forms, each in turn; its gate is their patterns joined."""
    searches = [
        (
            re.compile(rf"(?<![\w-])(?<!\d[.,/])(?:{form.pattern})(?![\w-]|[.,/]\d)"),
            form.valid,
            near(form.context) if form.context else None,
        )
        for form in forms
    ]

    def find(text: str) -> Iterator[Span]:
        for pattern, valid, context in searches:
            for match in pattern.finditer(text):
                start, end = match.span()
                if context and not context.search(text, max(0, start - NEAR), start):
                    continue
                if valid is None or valid(match[0]):
                    yield start, end

    return Recogniser(kind, "|".join(f"(?:{form.pattern})" for form in forms), find)


def near(words: str) -> re.Pattern[str]:
    """Return the pattern of context words, given as alternatives, in any case."""
    return re.compile(rf"(?i)(?<!\w)(?:{words})(?!\w)")
