"""What a file is: its format and its compression, by what it begins with and how it is named."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

import orjson
import pyarrow

from forgeline.config.schema import Format
from forgeline.data.ingest.streams import SUFFIXES, Compression, compression_of, open_stream
from forgeline.errors import DataError

EXTENSIONS: dict[str, Format] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".txt": "text",
}  # fmt: skip
MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
UTF16 = {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}


@dataclass(frozen=True)
class File:
    """A file to read, under a name that is the same on every machine."""

    name: str
    path: Path
    format: Format
    compression: Compression | None

    @property
    def described(self) -> str:
        """The format, and the compression if there is any."""
        return f"{self.format} ({self.compression})" if self.compression else self.format


def known_extension(path: Path) -> Format | None:
    """Return the format that a file's name tells, compressed or not."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path.name).suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return EXTENSIONS.get(suffixes[-1]) if suffixes else None


def examine(name: str, path: Path, given: Format | None = None) -> File:
    """Return what a file is by its first bytes and its name, or in the format that is given.

    Raises:
        DataError: if neither tells.
    """
    compression = compression_of(path)
    with damage_reported(name, lambda: 0), open_stream(path, compression) as stream:
        head = stream.read(1 << 20)
    found = given or next((form for magic, form in MAGIC.items() if head.startswith(magic)), None)
    named = known_extension(path)
    if found is None and named in {"parquet", "arrow"}:
        raise DataError(f"{name} is named like {named} and does not begin like it: get the file again.")
    if found is None and named in {None, "json"}:
        found = _json_kind(head, named)
    found = found or named
    if found is None:
        raise DataError(
            f"{name} has none of the endings {', '.join(EXTENSIONS)} and does not begin like JSON: give the source's "
            f"`format`, one of {', '.join(get_args(Format))}."
        )
    return File(name, path, found, compression)


def is_splittable(file: File) -> bool:
    """Return whether spans of the file, from line to line, can be read on their own."""
    if file.format != "jsonl" or file.compression:
        return False
    with file.path.open("rb") as stream:
        return stream.read(2) not in UTF16


@contextmanager
def damage_reported(name: str, count: Callable[[], int]) -> Iterator[None]:
    """Turn what decompression and columnar readers raise into a sentence that says how far they came."""
    try:
        yield
    except (pyarrow.ArrowException, OSError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:  # the machine's, not the file's
            raise
        reason = " ".join(str(fault).split()).rstrip(".")
        raise DataError(f"{name} is cut off or damaged after {count():,} rows ({reason}): get it again.") from None


def _json_kind(head: bytes, named: Format | None) -> Format | None:
    """Tell JSON lines from a JSON document: files called .json may be either."""
    text = head.decode("utf-16", errors="replace").encode() if head[:2] in UTF16 else head
    text = text.removeprefix(codecs.BOM_UTF8).lstrip()
    if text[:1] not in {b"{", b"["}:
        return named
    line, _, rest = text.partition(b"\n")
    try:
        alone = isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        alone = False
    return "jsonl" if alone and (named is None or rest.strip()) else "json"
