"""Keys and tokens: by the prefixes their issuers give them, and by the name they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from forgeline.data.pii.recogniser import Recogniser, Span

ISSUED = (  # what the prefix is, and what follows it
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36}",
    r"github_pat_[A-Za-z0-9_]{22}",
    r"glpat-[A-Za-z0-9_-]{20}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"ya29\.[A-Za-z0-9_-]{20}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16}",  # Stripe
    r"hf_[A-Za-z]{30}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-AgE[A-Za-z0-9_-]{50}",
    r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16}",  # SendGrid
    r"shpat_[a-f0-9]{32}",  # Shopify
    r"dop_v1_[a-f0-9]{64}",  # DigitalOcean
    r"eyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{4,8192}\.[A-Za-z0-9_-]{8}",  # a JSON Web Token (RFC 7519)
)
BEGINNINGS = (  # of which a text has one, if it has an issued secret
    *("AKIA", "ASIA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AIza"),
    *("ya29.", "k_live_", "k_test_", "hf_", "npm_", "pypi-", "SG.", "shpat_", "dop_v1_", "eyJ", "sk-"),
)
PREFIXED = re.compile(rf"(?<![A-Za-z0-9_])(?:{'|'.join(ISSUED)})[A-Za-z0-9_-]*")
DASHED = re.compile(r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{20,}")  # OpenAI, Anthropic: told from words by their digits
PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
    r"(?:[^\0]{0,20000}?-----END [A-Z ]{0,40}PRIVATE KEY-----|[A-Za-z0-9+/=\s\\]*)"
)
NAMES = (  # a class first: Python finds it faster than words in any case
    r"[kKtTsScCpPwW](?i:(?<=k)ey|(?<=t)oken|(?<=s)e(?:cret|nha)|(?<=c)(?:redentials?|ontrase[ñn]a)|(?<=w)achtwoord"
    r"|(?<=p)(?:ass(?:wor[dt]|wd|phrase)?|wd))"
)
SPACE = r"[ \t\r\n]{0,2}"
SIGN = rf"(?:[_-][A-Za-z0-9_]{{0,20}})?[\"']?{SPACE}(?::=|=>|=|:){SPACE}"
ASSIGNED = re.compile(
    rf"({NAMES})(?<!(?i:public)[ _-](?i:key))(?<!(?i:publickey))(?<!(?i:primary key))(?<!(?i:foreign key)){SIGN}"
    r"(?:[\"'`]([^\"'`\s]{6,})[\"'`]|([^\s\"'`,;<>{}()\[\]]{6,})(?![\[({<]))"
)
GATES = (  # in the order of the searches below
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AIza|ya29\.|[rs]k_(?:live|test)_|hf_|npm_|pypi-AgE"
    r"|SG\.|shpat_|dop_v1_|eyJ|sk-[A-Za-z0-9_-]{20}",
    "PRIVATE KEY-----",
    "[Bb]earer|[Bb]asic",
    r"(?i:key|token|secret|senha|credential|contrase[ñn]a|wachtwoord|pass|pwd)"
    r"[A-Za-z0-9_-]{0,30}[\"']?[ \t\r\n]{0,2}[=:]",
)
FLIP = re.compile(r"[a-z](?=[A-Z])|[A-Z](?=[a-z])")
HEADER = re.compile(r"(?:[Bb]earer|[Bb]asic)\s{1,3}([A-Za-z0-9._~+/=-]{16,})")
PLACEHOLDER = re.compile(
    r"(?i:your[_-]|my[_-](?:secret|key|token|pass)|example|change_?me|x{4,}|\*{3,}|\.{3})"
    r"|^[A-Z]+(?:_[A-Z]+)+$|^[a-z]+(?:[._/-][a-z]+)*$"
)


def secret() -> list[Recogniser]:
    """Return the recognisers of secrets; of an assignment only the value is found."""

    def issued(text: str) -> Iterator[Span]:
        if not any(beginning in text for beginning in BEGINNINGS):  # a hundredth of what the search takes
            return
        yield from (match.span() for match in PREFIXED.finditer(text))
        yield from (match.span() for match in DASHED.finditer(text) if _is_random(match[0][3:], 20))

    def pem(text: str) -> Iterator[Span]:
        yield from (match.span() for match in PEM.finditer(text))

    def header(text: str) -> Iterator[Span]:
        yield from (match.span(1) for match in HEADER.finditer(text) if _is_random(match[1], 16))

    def assigned(text: str) -> Iterator[Span]:
        if "=" not in text and ":" not in text:
            return
        for match in ASSIGNED.finditer(text):
            group = 2 if match[2] else 3
            value = match[group].rstrip(".,;:")
            if _is_secret(match[1], value):
                yield match.start(group), match.start(group) + len(value)

    searches = (issued, pem, header, assigned)
    return [Recogniser("secret", (gate,), find, str) for gate, find in zip(GATES, searches, strict=True)]


def is_placeholder(value: str) -> bool:
    """Say whether a value stands for a secret to be filled in, or is a plain word or name."""
    return PLACEHOLDER.search(value) is not None


def _is_secret(name: str, value: str) -> bool:
    """Say whether an assigned value is one: a password needs a letter and a digit, a key must look drawn at random."""
    if is_placeholder(value):
        return False
    least = 12
    if name.lower() not in {"key", "token", "secret", "credential", "credentials", "pass"}:
        if any(map(str.isdigit, value)):
            return True
        least = 8
    return _is_random(value, least)


def _is_random(value: str, least: int) -> bool:
    """Say whether a text of that length at least mixes letters with digits, or cases as no name does."""
    digits = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    cases = len(FLIP.findall(value)) > 0.38 * len(value)  # words joined in camel case have fewer
    return len(value) >= least and (digits or cases) and entropy(value) >= 2.75


def entropy(value: str) -> float:
    """Return the entropy of the characters of a text, in bits to the character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())
