"""`forgeline data freeze`."""

from __future__ import annotations


def freeze() -> None:
    """Not there yet."""
    raise NotImplementedError
