"""Identity of files, code and configuration: the digests that the chain of evidence is made of."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """Return the sha256 of a JSON-serialisable value, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def code_digest(*rooms: str) -> str:
    """Return one sha256 over the Python source of the library's rooms, such as `"tuning"`.

    The ground floor (the modules directly in the package) always counts: every room imports it.
    """
    sources = [*PACKAGE.glob("*.py"), *(p for room in rooms for p in (PACKAGE / room).rglob("*.py"))]
    return value_digest({p.relative_to(PACKAGE).as_posix(): file_digest(p) for p in sources})


def git_revision(root: Path) -> str:
    """Return the commit of `root`, with `-dirty` when tracked files differ from it.

    A project that is not under git has the revision `unversioned`.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return f"{revision}-dirty" if git("status", "--porcelain", "--untracked-files=no") else revision
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unversioned"
