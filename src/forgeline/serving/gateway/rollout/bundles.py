"""The bundles beside the one that is live: no other place on the machine can be named."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from forgeline.serving.bundle import MANIFEST, Manifest
from forgeline.serving.gateway.protocol import ApiError


def found(folder: Path, name: str) -> Path:
    """Return the bundle of a name, or the newest of a version; it is not verified yet.

    Raises:
        ApiError: 404 if there is none.
    """
    there = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in there:
        if path.parent.name == name or _version(path) == name:
            return path.parent
    message = f"There is no bundle {name} in {folder}: it was deleted or never built; `forgeline deploy` builds one."
    raise ApiError(404, message, "bundle_not_found", "bundle")


def _version(path: Path) -> str | None:
    try:
        return Manifest.model_validate_json(path.read_bytes()).lineage.version
    except (ValidationError, OSError):
        return None
