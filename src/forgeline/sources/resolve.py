"""Choose how a reference is resolved by how it begins."""

from __future__ import annotations

from pathlib import Path

from forgeline.errors import SourceError
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

    Raises:
        SourceError: saying what is missing, what was found instead, and what to do.
    """
    if reference.startswith("file:"):
        return resolve_local(reference.removeprefix("file:").removeprefix("//"), root)
    scheme, separator, location = reference.partition("://")
    if not separator:
        return resolve_local(reference, root)
    if not location:
        raise SourceError(f"{reference} names nothing: write what to fetch after {scheme}://.")
    if scheme == "hf":
        return [resolve_hub(reference)]
    if scheme == "pypi":
        return [resolve_package(reference)]
    if scheme in {"http", "https"}:
        return [resolve_http(reference)]
    return resolve_remote(reference)
