"""Patterns of personal data, each confirmed by a validator, and the tags that replace them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[^\W\d_]{2,}(?!\w)")
IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f])(?![\w:]|\.\d)"
)
IBAN = re.compile(r"(?<!\w)(?:[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}|[a-z]{2}\d{2}[a-z0-9]{11,30})(?!\w)")
CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w.+:/-])(?:"
    r"(?:\+|00 ?)[1-9]\d{0,2}[ -]?(?:\(0\)[ -]?)?(?:\(?\d{1,5}\)?[ -]?){2,5}\d{2,}"  # international
    r"|\(0\d{2,5}\) ?\d{3,4}[ -]?\d{3,6}|0\d{2,5}[ -]?\d{3,4}[ -]?\d{3,4}|0\d{9,10}"  # with the UK's trunk 0
    r"|(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ -])[2-9]\d{2}-\d{4}"  # North American
    r")(?![\w:/-]|\.\d)"
)


class Find(NamedTuple):
    """Where a piece of personal data stands in a text."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: Iterable[str] | None = None) -> list[Find]:
    """Return the personal data of a text, of the given kinds or all: the more specific kind wins an overlap."""
    if not re.search(r"[\d@:]", text):
        return []
    found: list[Find] = []
    for kind in KINDS if kinds is None else [kind for kind in KINDS if kind in set(kinds)]:
        for start, end in KINDS[kind](text):
            if all(end <= other.start or start >= other.end for other in found):
                found.append(Find(kind, start, end))
    return sorted(found, key=lambda one: one.start)


def mask(text: str, kinds: Iterable[str]) -> tuple[str, list[str]]:
    """Return the text with tags such as [EMAIL] in place of what was found, and the kinds found."""
    found = find(text, kinds)
    for kind, start, end in reversed(found):
        text = f"{text[:start]}[{kind.upper()}]{text[end:]}"
    return text, [one.kind for one in found]


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in EMAIL.finditer(text):
        yield match.span()


def _ips(text: str) -> Iterator[tuple[int, int]]:
    for match in IP.finditer(text):
        try:
            ipaddress.ip_address(match[0])
        except ValueError:
            continue
        yield match.span()


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the longest start of each match with valid check digits: the pattern may run on into capitals."""
    for match in IBAN.finditer(text):
        ends = [match.start() + gap.start() for gap in re.finditer(r" |$", match[0])]
        for end in reversed(ends):
            compact = text[match.start() : end].replace(" ", "").upper()
            digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
            if 15 <= len(compact) <= 34 and int(digits) % 97 == 1:
                yield match.start(), end
                break


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        digits = [int(digit) for digit in match[0] if digit.isdigit()]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1:
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for match in PHONE.finditer(text):
        digits = sum(character.isdigit() for character in match[0])
        if (8 if match[0][0] == "+" else 10) <= digits <= 15:
            yield match.span()


KINDS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _ips,
    "phone": _phones,
}
