"""The append-only, hash-chained record of decisions: promoted, deployed, rolled back, stopped."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from forgeline.errors import LedgerError
from forgeline.lineage import value_digest

GENESIS = "0" * 64


class Entry(BaseModel):
    """One decision; `digest` covers every other field, `previous` the digest of the entry before."""

    model_config = ConfigDict(extra="forbid")
    number: int
    at: str
    actor: str
    action: str
    facts: dict[str, Any]
    previous: str
    digest: str

    def expected_digest(self) -> str:
        """Return what `digest` must be for the fields as they stand."""
        return value_digest(self.model_dump(exclude={"digest"}))


class Ledger:
    """A JSON-lines file of entries. Appends are serialised by a lock and flushed to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first; raise LedgerError for a line that is not one."""
        if not self.path.exists():
            return []
        entries = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entries.append(Entry.model_validate_json(line))
            except ValidationError:
                raise LedgerError(
                    f"{self.path}, line {number} is not a ledger entry: restore the file from a copy; "
                    "decisions recorded before that line are intact."
                ) from None
        return entries

    def append(self, action: str, **facts: Any) -> Entry:
        """Record a decision under the current user's name and return its entry."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            entries = self.entries()
            entry = Entry(
                number=len(entries) + 1,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                actor=getpass.getuser(),
                action=action,
                facts=json.loads(json.dumps(facts)),
                previous=entries[-1].digest if entries else GENESIS,
                digest="",
            )
            entry.digest = entry.expected_digest()
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return entry

    def verify(self) -> list[Entry]:
        """Return the entries of an intact chain; raise LedgerError at the first broken link."""
        previous = GENESIS
        for number, entry in enumerate(entries := self.entries(), start=1):
            if (entry.number, entry.previous, entry.digest) != (number, previous, entry.expected_digest()):
                raise LedgerError(
                    f"{self.path}, line {number} was altered, removed or reordered: its hash does not "
                    "follow from the entry before it. Restore the file from a copy."
                )
            previous = entry.digest
        return entries
