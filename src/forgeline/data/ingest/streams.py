"""Bytes of a file, block by block, whatever it is compressed with; and their lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow

Compression = Literal["gzip", "zstd"]
MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = {".gz", ".gzip", ".zst", ".zstd"}
BLOCK = 1 << 20
MAX_LINE = 16 << 20  # bytes; a longer line is a fault, and is never held whole


@dataclass(frozen=True)
class Overlong:
    """What is kept of a line that is longer than `MAX_LINE`: its first bytes, and its size."""

    start: bytes
    size: int


def compression_of(path: Path) -> Compression | None:
    """Return what a file's first bytes say that it is compressed with."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def open_stream(path: Path, compression: Compression | None) -> Any:
    """Return a file's decompressed bytes as a stream that raises OSError where they are cut off or damaged."""
    return pyarrow.input_stream(str(path), compression=compression)


def blocks(path: Path, compression: Compression | None, span: tuple[int, int] | None = None) -> Iterator[bytes]:
    """Yield a text file's bytes as UTF-8 without byte order mark, or those from one offset to another.

    A file that begins with the mark of UTF-16 is decoded; a span of it cannot be asked for.
    """
    with open_stream(path, compression) as stream:
        if span is not None:
            stream.seek(span[0])
        left = span[1] - span[0] if span else None
        first = stream.read(BLOCK if left is None else min(BLOCK, left))
        if span is None or span[0] == 0:
            if first[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
                yield from _from_utf16(first, stream)
                return
            first = first.removeprefix(codecs.BOM_UTF8)
        while first:
            yield first
            if left is not None:
                left = span[1] - stream.tell() if span else 0
            first = stream.read(BLOCK if left is None else min(BLOCK, left))


def _from_utf16(first: bytes, stream: Any) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
    block = first
    while block:
        yield decoder.decode(block).encode()
        block = stream.read(BLOCK)
    yield decoder.decode(b"", final=True).encode()


def lines(chunks: Iterable[bytes]) -> Iterator[bytes | Overlong]:
    """Yield the lines of blocks without their ends; memory stays bounded whatever their length."""
    rest, start, size = b"", b"", 0  # what may yet become a line; or of an overlong one its start and size so far
    for chunk in chunks:
        block = chunk
        if size:
            end = block.find(b"\n")
            size += len(block) if end < 0 else end
            if end < 0:
                continue
            yield Overlong(start, size)
            block, size = block[end + 1 :], 0
        first, *others = (rest + block).split(b"\n")
        if others:
            yield first if len(first) <= MAX_LINE else Overlong(first[:BLOCK], len(first))
            yield from others[:-1]
        rest = others[-1] if others else first
        if len(rest) > MAX_LINE:
            rest, start, size = b"", rest[:BLOCK], len(rest)
    if size:
        yield Overlong(start, size)
    elif rest:
        yield rest
