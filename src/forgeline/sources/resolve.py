"""Choose how a reference is resolved by how it begins."""

from __future__ import annotations

from pathlib import Path

from forgeline.errors import SourceError
from forgeline.sources.environment import expand, redact
from forgeline.sources.hub import resolve_hub
from forgeline.sources.local import resolve_local
from forgeline.sources.package import resolve_package
from forgeline.sources.remote import resolve_http, resolve_remote


def resolve(reference: str, root: Path) -> list[Path]:
    """Return local paths for a reference, downloading into the cache what is not there yet.

    | reference | meaning |
    |---|---|
    | `rows/*.jsonl`, `file:rows.jsonl` | paths and globs, relative to `root`, sorted |
    | `hf://[datasets/]owner/name[@revision][/path]` | a hub repository (its folder) or one file of it |
    | `pypi://name==version/member#sha256=…` | one file of a published distribution, never executed |
    | `https://…#sha256=…` | a pinned file |
    | `s3://…`, `gs://…`, any fsspec URL `[#sha256=…]` | an object, or a glob of objects |

    `${env:NAME}` stands for an environment variable, which no message spells out.

    Raises:
        SourceError: saying what is missing, what was found instead, and what to do.
    """
    return [path for _, path in locate(reference, root)]


def locate(reference: str, root: Path) -> list[tuple[str, Path]]:
    """Return what `resolve` does, each path under a name that is the same on every machine.

    Raises:
        SourceError: as `resolve` does.
    """
    try:
        return [(redact(name, reference), path) for name, path in _locate(expand(reference), root)]
    except SourceError as fault:
        raise SourceError(redact(str(fault), reference)) from None


def _locate(reference: str, root: Path) -> list[tuple[str, Path]]:
    scheme, separator, location = reference.partition("://")
    if reference.startswith("file:") or not separator:
        paths = resolve_local(reference.removeprefix("file:").removeprefix("//"), root)
        return [(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path), path) for path in paths]
    if not location:
        raise SourceError(f"{reference} names nothing: write what to fetch after {scheme}://.")
    address = reference.partition("#")[0]
    if scheme == "hf":
        return [(address, resolve_hub(reference))]
    if scheme == "pypi":
        return [(address, resolve_package(reference))]
    if scheme in {"http", "https"}:
        return [(address, resolve_http(reference))]
    return resolve_remote(reference)
