"""`forgeline data preview`."""

from __future__ import annotations


def preview() -> None:
    """Not there yet."""
    raise NotImplementedError
