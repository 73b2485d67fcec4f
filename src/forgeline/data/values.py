"""Numbers, times, prices and codes in texts, and which of them another text lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

TIME = re.compile(r"(?<!\w)(\d{1,2}):(\d{2})(?!\d)|(?<!\w)(\d{1,2}) ?[ap]\.?m\b", re.IGNORECASE)
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)", re.IGNORECASE)
VALUE = re.compile(r"(?:(?<![^\W_])|(?<=\d))[^\W\d_]*+\d[^\W_]*+(?:[.,]\d+)*")  # a long word is looked through once
WORD = re.compile(r"\w+(?:['’]\w+)*")
NUMBER, THOUSANDS = re.compile(r"\d+(?:[.,]\d+)?"), re.compile(r"\d{1,3}(?:,\d{3})")
GROUPED = re.compile(r"(?<=\d{3}) (?=\d{3})")
LONG = 5  # digits from which on a number is a code that may be written in groups
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
SPELT = {word: float(number) for number, word in enumerate(WORDS)}
DIGIT, BETWEEN = re.compile(r"\d"), re.compile(r"[\W_]+")


def loose_values(reply: str, prompt: str) -> Iterator[str]:
    """Yield the times, codes and numbers of a reply that its prompt lacks, in order.

    However they are written: times are told to half a day, codes without spaces, and numbers by their value.
    """
    yield from (reply[start:end] for start, end in loose_spans(reply, prompt))


def loose_spans(reply: str, prompt: str) -> Iterator[tuple[int, int]]:
    """Yield where the values stand that `loose_values` tells."""
    if not DIGIT.search(reply):
        return
    told = _Told(prompt)
    gaps = {match.start() for match in GROUPED.finditer(reply)}
    places = [place for place in range(len(reply)) if place not in gaps]  # of the digits once groups are joined
    joined = GROUPED.sub("", reply)
    loose = [match.span() for match in TIME.finditer(joined) if _minutes(match) not in told.times]
    for match in VALUE.finditer(TIME.sub(lambda match: " " * len(match[0]), joined)):
        number = _number(match[0])
        code = BETWEEN.sub("", match[0]).lower()
        if not (number in told.numbers if number is not None else code in told.codes):
            loose.append(match.span())
    yield from ((places[start], places[end - 1] + 1) for start, end in sorted(loose))


class _Told:
    """The values of a prompt, each kind looked for when it is first asked about."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    @cached_property
    def times(self) -> set[int]:
        return {_minutes(match) for match in TIME.finditer(self._prompt)}

    @cached_property
    def codes(self) -> str:
        return " ".join(BETWEEN.sub("", line).lower() for line in self._prompt.splitlines())

    @cached_property
    def numbers(self) -> set[float]:
        written = map(_number, VALUE.findall(TIME.sub(" ", self._prompt)))
        spelt = SPELT.keys() & WORD.findall(self._prompt.lower())
        return {value for value in written if value is not None} | {SPELT[word] for word in spelt}


def _minutes(match: re.Match[str]) -> int:
    """Return a time as minutes of half a day."""
    return int(match[1] or match[3]) % 12 * 60 + int(match[2] or 0)


def _number(value: str) -> float | None:
    """Return what a number or ordinal amounts to; None for a code."""
    ordinal = ORDINAL.fullmatch(value)
    digits = ordinal[1] if ordinal else value
    if not NUMBER.fullmatch(digits) or sum(map(str.isdigit, digits)) >= LONG:
        return None
    return float(digits.replace(",", "" if THOUSANDS.fullmatch(digits) else "."))
