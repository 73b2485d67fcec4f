"""E-mail addresses (RFC 5321, 5322, 6531)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forgeline.data.pii.recogniser import Recogniser, Span

ATOM = "!#$%&'*+-/=?^_`{|}~."  # besides letters and digits
QUOTED = re.compile(r"\"(?:[^\"\\\n]|\\.){1,64}\"@")
DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.)+(?:xn--[a-zA-Z0-9-]{1,59}|[^\W\d_]{2,24})(?!\w)"
    r"|\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\]"
)
LABEL = re.compile(r"(?i)(?:e?-?mail|from|to|cc|user|username|login|contact)=|//|'")  # atoms by RFC, labels in practice


def email() -> list[Recogniser]:
    """Return the recogniser of addresses; `git@host` names a service, not a mailbox."""
    return [Recogniser("email", ("@",), _find, str.casefold)]


def _find(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        if domain := DOMAIN.match(text, at + 1):
            start = _start(text, at)
            if start < at and text[start:at] != "git":
                yield start, domain.end()
        at = text.find("@", at + 1)


def _start(text: str, at: int) -> int:
    """Return where the local part in front of an at sign starts."""
    if text[at - 1 : at] == '"':
        for quoted in QUOTED.finditer(text, max(0, at - 66), at + 1):
            if quoted.end() == at + 1:
                return quoted.start()
        return at
    start = at
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] in ATOM):
        start -= 1
    label = LABEL.match(text, start, at)
    return label.end() if label else start
