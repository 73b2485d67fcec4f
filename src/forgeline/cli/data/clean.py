"""`forgeline data clean`: what the rules would do."""

from __future__ import annotations


def clean() -> None:
    """Not there yet."""
    raise NotImplementedError
