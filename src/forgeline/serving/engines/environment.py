"""What is installed: here, or in an environment of its own without starting its Python, which takes seconds."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from forgeline.errors import ServingError


def release(environment: Path, *packages: str) -> str | None:
    """Return the release of the first of these packages that is installed there, or None."""
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    found = {found.name.lower(): found.version for found in distributions(path=paths)}
    return next((found[package] for package in packages if package in found), None)


def packaged(package: str, extra: str) -> str:
    """Return a package of this environment and its release, as what runs a variant is named.

    Raises:
        ServingError: if it is not installed.
    """
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise ServingError(f"{package} is not installed: pip install 'forgeline[{extra}]'.") from None
