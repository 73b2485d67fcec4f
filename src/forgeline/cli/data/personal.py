"""`forgeline data pii|forget|find-subject`: personal data and whose they are."""

from __future__ import annotations


def pii() -> None:
    """Not there yet."""
    raise NotImplementedError


def forget() -> None:
    """Not there yet."""
    raise NotImplementedError


def find_subject() -> None:
    """Not there yet."""
    raise NotImplementedError
