"""Planted keys and tokens in the shapes their issuers document; every value is drawn at random."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

Sample = Callable[[random.Random], tuple[str, str, str]]
LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM = UPPER + LOWER + DIGITS
URL_SAFE = ALNUM + "-_"


def _chars(alphabet: str, length: int, chance: random.Random) -> str:
    return "".join(chance.choices(alphabet, k=length))


def _prefixed(prefixes: str, alphabet: str, length: int) -> Sample:
    return lambda chance: ("", chance.choice(prefixes.split("|")) + _chars(alphabet, length, chance), "")


def _jwt(chance: random.Random) -> tuple[str, str, str]:
    """Return a signed token in the compact form of RFC 7519."""
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": str(chance.randrange(10**9)), "iat": chance.randrange(10**9)}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return "", ".".join([*coded, _chars(URL_SAFE, 43, chance)]), ""


def _pem(chance: random.Random) -> tuple[str, str, str]:
    """Return a private key in the textual encoding of RFC 7468."""
    label = chance.choice(
        ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"]
    )
    body = "\n".join(_chars(ALNUM + "+/", 64, chance) for _ in range(chance.randrange(2, 8)))
    return "", f"-----BEGIN {label}-----\n{body}\n-----END {label}-----", ""


NAMES = (
    *("password", "API_KEY", "api_key", "secret", "DB_PASSWORD", "access_token", "auth-token", "client_secret", "pwd"),
    *("SECRET_KEY", "passwd", "apiKey", "aws_secret_access_key", "Passwort", "private_key", "ADMIN_PASS"),
)
QUOTES = (("=", ""), (" = ", ""), (": ", ""), ('="', '"'), (" = '", "'"), (": '", "',"), (":", ""))


def _assigned(chance: random.Random) -> tuple[str, str, str]:
    """Return a line of code or settings; no standard, the shapes that leak in practice."""
    name, (before, after) = chance.choice(NAMES), chance.choice(QUOTES)
    password = _chars(ALNUM, 7, chance) + chance.choice("!$%^&*#-") + _chars(DIGITS, 3, chance) + "q"
    shapes = [_chars(ALNUM, 20, chance), _chars(ALNUM + "/+", 40, chance), _chars(string.hexdigits[:16], 32, chance)]
    if chance.random() < 0.2:
        name, before, after = f'"{name}"', ': "', '"'
    return name + before, chance.choice([*shapes, password]), after


def _bearer(chance: random.Random) -> tuple[str, str, str]:
    """Return the credentials of a header of RFC 6750 or RFC 7617."""
    if chance.random() < 0.5:
        return "Authorization: Bearer ", _chars(URL_SAFE + ".~+/", 30, chance) + _chars(ALNUM, 2, chance), ""
    userpass = f"user{chance.randrange(1000)}:{_chars(ALNUM, 12, chance)}"
    return "Authorization: Basic ", base64.b64encode(userpass.encode()).decode(), ""


FORMS: list[Sample] = [
    _prefixed("AKIA|ASIA", UPPER + "234567", 16),
    _prefixed("ghp_|gho_|ghu_|ghs_|ghr_", ALNUM, 36),
    lambda c: ("", f"github_pat_{_chars(ALNUM, 22, c)}_{_chars(ALNUM, 59, c)}", ""),
    _prefixed("glpat-", URL_SAFE[:-2] + "_", 20),
    lambda c: (
        "",
        f"{c.choice(['xoxb', 'xoxp', 'xoxa'])}-{_chars(DIGITS, 12, c)}-{_chars(DIGITS, 12, c)}-{_chars(ALNUM, 24, c)}",
        "",
    ),
    lambda c: ("", f"AIza{_chars(URL_SAFE, 34, c)}{c.choice(ALNUM)}", ""),
    _prefixed("sk_live_|rk_live_|sk_test_", ALNUM, 24),
    _prefixed("sk-|sk-proj-", ALNUM, 48),
    lambda c: ("", f"sk-ant-api03-{_chars(URL_SAFE, 92, c)}A", ""),
    _prefixed("hf_", UPPER + LOWER, 34),
    _prefixed("npm_", ALNUM, 36),
    lambda c: ("", f"SG.{_chars(ALNUM, 22, c)}.{_chars(ALNUM, 43, c)}", ""),
    lambda c: ("", f"pypi-AgEIcHlwaS5vcmc{_chars(URL_SAFE, 60, c)}x", ""),
    *(_jwt, _jwt, _pem, _pem, _assigned, _assigned, _assigned, _assigned, _assigned, _assigned, _bearer),
]
