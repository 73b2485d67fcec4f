"""`forgeline data log|diff|rollback|plots`."""

from __future__ import annotations


def log() -> None:
    """Not there yet."""
    raise NotImplementedError


def diff() -> None:
    """Not there yet."""
    raise NotImplementedError


def rollback() -> None:
    """Not there yet."""
    raise NotImplementedError


def plots() -> None:
    """Not there yet."""
    raise NotImplementedError
