"""`forgeline data pii|find-subject`: personal data."""

from __future__ import annotations


def pii() -> None:
    """Not there yet."""
    raise NotImplementedError
