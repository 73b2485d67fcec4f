"""Paths and globs of the project."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterable
from pathlib import Path

from forgeline.errors import SourceError


def resolve_local(pattern: str, root: Path) -> list[Path]:
    """Return the files (or the one folder) that a path or glob names, sorted.

    Raises:
        SourceError: naming the nearest siblings of what does not exist.
    """
    path = root / pattern
    if path.exists():
        return [path]
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if found:
        return found
    what = "matches no file" if glob.has_magic(pattern) else "does not exist"
    folder = next(parent for parent in path.parents if parent.is_dir())
    missing = path.relative_to(folder).parts[0]
    raise SourceError(f"{path} {what}. {nearest(missing, (p.name for p in folder.iterdir()), str(folder))}")


def nearest(name: str, names: Iterable[str], place: str) -> str:
    """Return a sentence with the names of `place` that look most like `name`, or its first few."""
    names = sorted(names)
    if not names:
        return f"{place} is empty."
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5) or names[:5]
    return f"{place} holds {', '.join(close)}{' and others' if len(names) > len(close) else ''}."
