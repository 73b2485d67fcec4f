"""Where a person's rows are, in every dataset version that is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pyarrow
from pyarrow import compute
from pydantic import BaseModel

from forgeline.data import table
from forgeline.data.history import Version, log, quarantine_files, quarantine_folder, workspace
from forgeline.data.versions import objects

HELD = "quarantine"  # beside the splits, where a version keeps rows


class Appearance(BaseModel):
    """The ids of a subject's rows in a dataset version, by split and in quarantine; `missing` could not be read."""

    digest: str
    revision: str
    date: str
    rows: dict[str, list[str]]
    missing: list[str]


def find_subject(root: Path, subject: str, fetch: bool = False) -> list[Appearance]:
    """Return the versions that hold rows of a subject, or that cannot be told to hold none, newest first.

    Args:
        root: the project.
        subject: as the records name it.
        fetch: ask the remote for files that are not here; otherwise they are said to be missing.

    Raises:
        DataError: if the project is not under git, or the remote does not give what is asked.
    """
    known = list(log(root))
    here = workspace(root)
    if here and here.digest not in {version.digest for version in known}:
        known.insert(0, here)
    places = _places(root, known, fetch)
    stored = objects(root, {each for place in places for ids in place.values() for each in ids}, fetch)
    rows = {each: _rows(path, subject) for each, path in stored.items()}
    found = []
    for version, place in zip(known, places, strict=True):
        held = {name: [row for each in ids for row in rows.get(each, ())] for name, ids in place.items()}
        missing = [name for name, ids in place.items() if not set(ids) <= set(stored)]
        if missing or any(held.values()):
            held = {name: ids for name, ids in held.items() if ids}
            found.append(
                Appearance(
                    digest=version.digest, revision=version.revision, date=version.date, rows=held, missing=missing
                )
            )
    return found


def _places(root: Path, known: list[Version], fetch: bool) -> list[dict[str, list[str]]]:
    """Return for each version the ids of the files of its splits and its quarantine."""
    folders = [quarantine_folder(version) for version in known]
    stored = objects(root, {folder for found in folders if found for folder in found[1:]}, fetch)
    places = []
    for version, found in zip(known, folders, strict=True):
        place = {name: [each] for name, each in version.lock.hashes.items()}
        if found:
            path, folder = found
            place[HELD] = quarantine_files(path, stored[folder]) if folder in stored else [folder]
        places.append(place)
    return places


def _rows(path: Path, subject: str) -> list[str]:
    """Return the ids of a subject's rows in a file of the store, which keeps no suffix."""
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            part = table.read(path, columns=["id", "subject"])
            ids: list[str] = part.filter(compute.equal(part["subject"], pyarrow.scalar(subject)))["id"].to_pylist()
            return ids
        file.seek(0)
        written = {orjson.dumps(subject), json.dumps(subject).encode()}
        lines = (orjson.loads(line) for line in file if any(each in line for each in written))
        return [row["id"] for row in lines if row.get("subject") == subject]
