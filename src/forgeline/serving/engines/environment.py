"""What is installed in an environment of its own, without starting its Python: that takes seconds."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path


def release(environment: Path, *packages: str) -> str | None:
    """Return the release of the first of these packages that is installed there, or None."""
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = {found.name.lower(): found.version for found in distributions(path=paths)}
    return next((found[package] for package in packages if package in found), None)
