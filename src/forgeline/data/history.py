"""The dataset versions of a project: those that git remembers, and the one in the workspace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from forgeline.data.layout import QUARANTINE, REPORTS
from forgeline.data.versions import FOLDER, LOCK, Lock, changed, check_out, edited, files, objects, read_lock
from forgeline.errors import DataError

WORKSPACE = "workspace"
SOURCE, SETTINGS = "data/source", "configs/data.yaml"
# What git restores for a version; the data themselves follow from the lock file. Frozen keys, review
# decisions and erased subjects are not a version's: they hold for all that come after them.
RESTORED = (LOCK, SETTINGS, REPORTS, SOURCE)


@dataclass(frozen=True)
class Version:
    """A dataset version at a commit, or in the workspace; `date` is ISO 8601."""

    lock: Lock
    revision: str
    date: str = ""
    author: str = ""
    subject: str = ""

    @property
    def digest(self) -> str:
        """The version's digest, equal wherever the data and their settings are."""
        return self.lock.digest

    @property
    def name(self) -> str:
        """The version in a few characters."""
        return f"{self.digest[:12]} ({self.revision if self.revision == WORKSPACE else self.revision[:10]})"


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did: from which digest, and the stages that would run again, each with why."""

    version: Version
    before: str | None
    stale: dict[str, list[str]]


def log(root: Path) -> Iterator[Version]:
    """Yield the versions in git's history, newest first, each at the commit that brought it.

    Raises:
        DataError: if the project is not under git.
    """
    newer: Version | None = None
    for version in _commits(root):
        if newer and newer.digest != version.digest:
            yield newer
        newer = version
    if newer:
        yield newer


def workspace(root: Path) -> Version | None:
    """Return the version whose lock file lies in the workspace, or None before the first."""
    path = root / LOCK
    lock = read_lock(path.read_text(encoding="utf-8")) if path.is_file() else None
    return Version(lock, WORKSPACE) if lock else None


def find(root: Path, name: str) -> Version:
    """Return the version that a revision, the beginning of a digest, or `workspace` names.

    A digest that several commits have is taken at the newest.

    Raises:
        DataError: if there is none, naming those that there are.
    """
    if name == WORKSPACE:
        found = workspace(root)
    elif commit := _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", faults=True).strip():
        found = next(_versions(root, [_git(root, "show", "--no-patch", FORMAT, commit).strip("\n")]), None)
    else:
        found = next((each for each in _commits(root) if len(name) > 5 and each.digest.startswith(name)), None)
    if found is None:
        known = ", ".join(version.digest[:12] for version, _ in zip(log(root), range(5), strict=False))
        raise DataError(f"{name} is no dataset version; there are: {known or 'none yet'} (`forgeline data log`).")
    return found


def reports(root: Path, version: Version) -> dict[str, Any]:
    """Return a version's reports by name."""
    if version.revision == WORKSPACE:
        found = {path.stem: path.read_bytes() for path in sorted((root / REPORTS).glob("*.json"))}
    else:
        listed = _git(root, "ls-tree", "--name-only", version.revision, f"{REPORTS}/").splitlines()
        names = [name for name in listed if name.endswith(".json")]
        texts = _blobs(root, [f"{version.revision}:./{name}" for name in names])
        found = {Path(name).stem: text for name, text in zip(names, texts, strict=True) if text is not None}
    return {name: json.loads(text) for name, text in found.items()}


def counts(found: dict[str, Any]) -> dict[str, int]:
    """Return the rows by fate and by split that a version's reports state."""
    return {
        name: count for report in ("clean", "split") for name, count in found.get(report, {}).get("rows", {}).items()
    }


def splits(root: Path, version: Version) -> dict[str, Path]:
    """Return a version's split files, by name, as they lie in the local store, fetched if they are not there."""
    stored = objects(root, version.lock.hashes.values())
    return {name: stored[each] for name, each in version.lock.hashes.items()}


def quarantine_folder(version: Version) -> tuple[str, str] | None:
    """Return the output that holds a version's quarantine, as its path and its id in the store."""
    holding = (path for path in version.lock.outs if f"{QUARANTINE}/".startswith(f"{path}/"))
    return next(((path, version.lock.outs[path]) for path in holding if version.lock.outs[path].endswith(FOLDER)), None)


def quarantine_files(path: str, folder: Path) -> list[str]:
    """Return the ids of the quarantine files in an output, given its path and where its object lies."""
    inside = files(folder).items()
    return [each for name, each in sorted(inside) if f"{path}/{name}".startswith(f"{QUARANTINE}/")]


def quarantine(root: Path, version: Version) -> list[Path]:
    """Return a version's quarantine files as they lie in the local store, fetched if they are not there."""
    found = quarantine_folder(version)
    if found is None:
        return []
    path, folder = found
    ids = quarantine_files(path, objects(root, [folder])[folder])
    stored = objects(root, ids)
    return [stored[each] for each in ids]


def roll_back(root: Path, version: Version) -> RolledBack:
    """Bring data, lock file, data settings, reports and sources back to a version, in workspace and index.

    Nothing is touched until all of it is known to be here. Killed half-way, it is completed by another call.

    Raises:
        DataError: if what it would replace is not committed, or the version's data cannot be had.
    """
    if version.revision == WORKSPACE:
        raise DataError("A rollback changes the workspace: name a version of `forgeline data log`.")
    before = workspace(root)
    if lost := [*_uncommitted(root, version.revision), *(edited(root) if before else ())]:
        raise DataError(
            f"Not committed, and a rollback would lose it: {', '.join(lost)}. Commit it (`forgeline data`, then "
            "`git commit`) or restore it first."
        )
    for folder in (path for each, path in objects(root, _cached(root, version)).items() if each.endswith(FOLDER)):
        objects(root, files(folder).values())
    named = _git(root, "ls-tree", "-r", "--name-only", version.revision, *RESTORED) + _git(root, "ls-files", *RESTORED)
    there = [path for path in RESTORED if any(f"{name}/".startswith(f"{path}/") for name in named.splitlines())]
    _git(root, "restore", f"--source={version.revision}", "--staged", "--worktree", "--", *there)
    check_out(root)
    return RolledBack(version, before.digest if before else None, changed(root))


def _cached(root: Path, version: Version) -> list[str]:
    """Return the ids of a version's outputs, less those that git keeps itself."""
    tracked = set(_git(root, "ls-tree", "-r", "--name-only", version.revision).splitlines())
    return [each for path, each in version.lock.outs.items() if path not in tracked]


def _uncommitted(root: Path, target: str) -> list[str]:
    """Return the files that differ from the last commit, and also from what they are to become."""
    differ = [
        set(_git(root, "diff", "--name-only", "--relative", at, "--", *RESTORED).splitlines())
        for at in ("HEAD", target)
    ]
    return sorted(
        {*(differ[0] & differ[1]), *_git(root, "ls-files", "--others", "--exclude-standard", *RESTORED).splitlines()}
    )


FORMAT = "--format=%H%x00%aI%x00%an%x00%s"


def _commits(root: Path) -> Iterator[Version]:
    return _versions(root, _git(root, "log", FORMAT, "--", LOCK).splitlines())


def _versions(root: Path, lines: list[str]) -> Iterator[Version]:
    commits = [line.split("\0") for line in lines]
    for fields, text in zip(commits, _blobs(root, [f"{fields[0]}:./{LOCK}" for fields in commits]), strict=True):
        if text is not None and (lock := read_lock(text.decode())):
            yield Version(lock, *fields)


def _blobs(root: Path, names: list[str]) -> list[bytes | None]:
    """Return what git's objects hold, or None where there is none, in one process for all."""
    said = BytesIO(
        subprocess.run(
            ["git", "cat-file", "--batch"], cwd=root, input="\n".join(names).encode(), capture_output=True, check=True
        ).stdout
    )
    texts: list[bytes | None] = []
    for _ in names:
        head = said.readline().split()
        texts.append(None if head[-1] == b"missing" else said.read(int(head[-1])))
        if texts[-1] is not None:
            said.readline()
    return texts


def _git(root: Path, *arguments: str, faults: bool = False) -> str:
    """Return what git says; with `faults`, an answer of no is an empty string."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise DataError("git is not installed: the history of the data is git's.") from None
    if done.returncode and not faults:
        reason = " ".join(done.stderr.split())
        raise DataError(f"git does not know the history of {root} ({reason}): commit the project first.")
    return done.stdout
