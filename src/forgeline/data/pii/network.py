"""IP addresses (RFC 791, 4291) and the credentials in URLs (RFC 3986)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from forgeline.data.pii.recogniser import NEAR, Recogniser, Span
from forgeline.data.pii.secret import is_placeholder

V4 = re.compile(r"[0-9](?<![\w.].)(?<!\d[,-].)(?<!\w/.)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.\d)")
V6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
)
V4_GATE = r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
V6_GATE = r"::|(?:[0-9A-Fa-f]{1,4}:){6}"
NUMBERED = re.compile(  # four numbers after such a word are a version, an outline or an object identifier
    r"(?i)(?:\bversions?|\breleases?|\bbuild|\bfirmware|\bsections?|\bchapter|\bclause|\bfigure|\btable|\boid|\bsnmp"
    r"|\bstep|\brev(?:ision)?|\bupdate|\bver|\bv|§)[.:=]?\s{0,2}$"
)


def ip() -> list[Recogniser]:
    """Return the recognisers of addresses, less those that are the same on every machine."""

    def find_v4(text: str) -> Iterator[Span]:
        for match in V4.finditer(text):
            if _is_address(match[0]) and not NUMBERED.search(text, max(0, match.start() - NEAR), match.start()):
                yield match.span()

    def find_v6(text: str) -> Iterator[Span]:
        if text.count(":") < 2:
            return
        for match in V6.finditer(text):
            if _is_v6(match[0]):
                yield match.span()

    return [Recogniser("ip", (V6_GATE,), find_v6, _canonical), Recogniser("ip", (V4_GATE,), find_v4, _canonical)]


def _canonical(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _is_v6(value: str) -> bool:
    groups = value.split(":")
    hardware = len(groups) == 8 and all(len(group) == 2 for group in groups)
    return len(value) > 5 and any(map(str.isdigit, value)) and not hardware and _is_address(value)


def _is_address(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return not (str(address) == "::1" or address.is_unspecified or value.startswith(("127.0.0.", "255.255.")))


ADDRESS = re.compile(r"[^\s<>\"`]*")
USERINFO = re.compile(r"([^\s/?#@\[\]<>\"]+)@(?=[\w\[])")
LONE_TOKEN = re.compile(r"(?=.*\d)[\w.~%-]{20,}")
PARAMETER = re.compile(
    r"(?i)[?&;#](?:[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|pwd|signature|credential|api[_-]?key)|key|sig|pass|auth|jwt"
    r"|session(?:_?id)?|access_?key)=([^\s&#\"'<>\[\](){}`]{6,})"
)


def url_credentials() -> list[Recogniser]:
    """Return the recogniser of `user:password` before a host and of the values of secret parameters.

    Only the credential is found: scheme, host and path stay readable.
    """

    def find(text: str) -> Iterator[Span]:
        at, end = text.find("://"), 0
        while at >= 0:
            user = USERINFO.match(text, at + 3)
            if user and (user[1].partition(":")[2] or LONE_TOKEN.fullmatch(user[1])):
                yield user.span(1)
            if at >= end:  # one address may stand in another's query: its parameters are read once
                address = ADDRESS.match(text, at)
                end = address.end() if address else at
                for parameter in PARAMETER.finditer(text, at, end):
                    value = parameter[1].rstrip(".,;:!?")
                    if len(value) >= 6 and not is_placeholder(value):
                        yield parameter.start(1), parameter.start(1) + len(value)
            at = text.find("://", at + 3)

    return [Recogniser("url_credentials", ("://", "@|[?&;#][^=]*="), find, str)]
