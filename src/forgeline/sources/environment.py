"""Secrets by reference: `${NAME}` in an address stands for an environment variable."""

from __future__ import annotations

import os
import re

from forgeline.errors import SourceError

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
PASSWORD = re.compile(r"(://[^/@\s:]*:)(?!\$\{)[^/@\s]+(?=@)")


def expand(reference: str) -> str:
    """Return a reference with the variables' values in place of `${NAME}`.

    Raises:
        SourceError: for a variable that is not set, or empty.
    """

    def value(match: re.Match[str]) -> str:
        if found := os.environ.get(match[1]):
            return found
        raise SourceError(f"{shown(reference)}: the environment variable {match[1]} is not set: export it first.")

    return VARIABLE.sub(value, reference)


def redact(text: str, reference: str) -> str:
    """Return a text with `${NAME}` where it holds the value of a variable that the reference names."""
    for name in VARIABLE.findall(reference):
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${{{name}}}")
    return shown(text)


def shown(text: str) -> str:
    """Return a text without the passwords that addresses in it spell out."""
    return PASSWORD.sub(r"\1***", text)
