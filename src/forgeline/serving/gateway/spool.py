"""Rows that wait for the database in files beside it, so that nothing that was promised is lost."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Spool:
    """Append-only JSON-lines files `PREFIX-<id>.jsonl`, one a process; what a dead process left is found again."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._file: int | None = None
        self.rows = sum(path.read_bytes().count(b"\n") for path in self._left())  # how many wait

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Return once a row is on the disk; raise OSError, and leave no part of it, if it cannot be."""
        line = (json.dumps([table, dict(row)]) + "\n").encode()
        with self._lock:
            if self._file is None:
                path = self._prefix.with_name(f"{self._prefix.name}-{uuid.uuid4().hex}.jsonl")
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)  # held as long as this process lives
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(f"{self._prefix}: the disk is full")
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
            self.rows += 1

    def take(self) -> list[Path]:
        """Return the files that nobody writes any more, this process's own among them: later rows get a new one."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
            return self._left()

    def read(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield table and row of each line; a last line that was cut short was never promised to anybody."""
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                table, row = json.loads(line)
                yield table, row

    def done(self, path: Path, rows: int, refused: list[tuple[str, dict[str, Any]]]) -> None:
        """Forget a file whose rows are in the database; those that it refused stay, in a file `*.refused`."""
        if refused:
            path.with_suffix(".refused").write_text("".join(json.dumps(row) + "\n" for row in refused))
        path.unlink(missing_ok=True)
        with self._lock:
            self.rows -= rows

    def _left(self) -> list[Path]:
        return sorted(
            path for path in self._prefix.parent.glob(f"{self._prefix.name}-*.jsonl") if not _is_written(path)
        )


def _is_written(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:  # another process has read it back
        return True
    except BlockingIOError:
        return True
    return False
