"""Secrets by reference: `${env:NAME}` in an address stands for an environment variable."""

from __future__ import annotations

import os
import re

from forgeline.errors import SourceError

# Not plain ${NAME}: that is the orchestrator's own, which would put the value into the records of its runs.
VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
PASSWORD = re.compile(r"(://(?:\$\{env:\w+\}|[^/@\s:$])*:)(?!\$\{env:)[^/@\s]+(?=@)")


def expand(reference: str) -> str:
    """Return a reference with the variables' values in place of `${env:NAME}`.

    Raises:
        SourceError: for a variable that is not set, or empty.
    """

    def value(match: re.Match[str]) -> str:
        if found := os.environ.get(match[1]):
            return found
        raise SourceError(f"{shown(reference)}: the environment variable {match[1]} is not set: export it first.")

    return VARIABLE.sub(value, reference)


def redact(text: str, reference: str) -> str:
    """Return a text with `${env:NAME}` where it holds the value of a variable that the reference names."""
    for name in VARIABLE.findall(reference):
        if secret := os.environ.get(name):
            text = text.replace(secret, f"${{env:{name}}}")
    return shown(text)


def shown(text: str) -> str:
    """Return a text without the passwords that addresses in it spell out."""
    return PASSWORD.sub(r"\1***", text)
