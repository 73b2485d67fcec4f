"""`forgeline data export|import`: rows to people and their decisions back."""

from __future__ import annotations


def export() -> None:
    """Not there yet."""
    raise NotImplementedError


def import_() -> None:
    """Not there yet."""
    raise NotImplementedError
