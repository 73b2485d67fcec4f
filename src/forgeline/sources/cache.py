"""The cache of downloads: one folder, written atomically, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from forgeline.errors import SourceError


def cache_root() -> Path:
    """Return `$FORGELINE_CACHE`, else `$XDG_CACHE_HOME/forgeline`, else `~/.cache/forgeline`."""
    if folder := os.environ.get("FORGELINE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forgeline"


def publish(target: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Return `target`, writing it first if it is missing: whole or not at all, under its lock."""
    if not target.exists():
        with locked(target), disk_space_reported(target.parent):
            if target.exists():  # another process was faster
                return target
            partial = target.with_name(target.name + ".part")
            try:
                with partial.open("wb") as file:
                    write(file)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)
    return target


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock that stands for a file to be written; a killed process lets go of it."""
    with disk_space_reported(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_space_reported(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full or read-only disk into a SourceError with what is free and, if known, needed in bytes."""
    try:
        yield
    except OSError as fault:
        if fault.errno == errno.ENOSPC:
            raise disk_full(folder, needed) from None
        if fault.errno in {errno.EACCES, errno.EROFS}:
            raise SourceError(f"{folder} cannot be written: set FORGELINE_CACHE to a folder that can.") from None
        raise


def disk_full(folder: Path, needed: int | None) -> SourceError:
    """Return the error that says how many megabytes are free, and how many are needed."""
    free = f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    need = f", {needed / 1e6:,.0f} MB needed" if needed else ""
    return SourceError(
        f"The disk of {folder} is full ({free}{need}): make room, or set FORGELINE_CACHE to a folder on another disk."
    )
