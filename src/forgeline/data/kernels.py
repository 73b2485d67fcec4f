"""Loops over UTF-8 bytes, compiled: normalised text, MinHash bands, Jaccard similarity.

A batch of texts is a buffer of bytes (uint8) with the n + 1 offsets (int64) of its n texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.data.text import normalise

Bytes = NDArray[numpy.uint8]
Numbers = NDArray[numpy.int64]
Hashes = NDArray[numpy.uint64]

ROUNDS = 4  # each shingle falls into this many bins, so that short texts leave few of them empty
EMPTY = numpy.uint64(0xFFFFFFFFFFFFFFFF)
BASE = numpy.uint64(0x9E3779B97F4A7C15)

SPACE, STOP, QUOTE = 1, 2, 3
KINDS = numpy.zeros(256, numpy.uint8)
KINDS[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = SPACE
KINDS[[ord(sign) for sign in ".,;:!?"]] = STOP
KINDS[[ord(sign) for sign in "\"'"]] = QUOTE


class Texts(NamedTuple):
    """A batch of texts as bytes."""

    data: Bytes
    offsets: Numbers

    @staticmethod
    def of(texts: polars.Series) -> Texts:
        """Return a batch of a series of strings without nulls."""
        array = texts.to_arrow().cast(pyarrow.large_string())
        _, offsets, data = array.buffers()
        starts = numpy.frombuffer(offsets, numpy.int64)[array.offset : array.offset + len(array) + 1]
        held = numpy.frombuffer(data, numpy.uint8) if data else numpy.zeros(0, numpy.uint8)
        return Texts(held[starts[0] : starts[-1]], starts - starts[0])

    @staticmethod
    def encoded(texts: Sequence[str]) -> Texts:
        """Return a batch of a few strings, at once; the bytes are read-only."""
        parts = [text.encode(errors="replace") for text in texts]
        ends = numpy.cumsum([0, *map(len, parts)], dtype=numpy.int64)
        return Texts(numpy.frombuffer(b"".join(parts), numpy.uint8), ends)

    def series(self) -> polars.Series:
        """Return the texts as a series of strings."""
        buffers = [None, pyarrow.py_buffer(self.offsets), pyarrow.py_buffer(self.data)]
        array = pyarrow.Array.from_buffers(pyarrow.large_string(), len(self.offsets) - 1, buffers)
        return polars.Series(array)


def normalise_texts(texts: polars.Series) -> polars.Series:
    """Return `text.normalise` of each text: the ASCII ones compiled, the others one by one."""
    done = Texts(*_normalise(*Texts.of(texts))).series()
    foreign = texts.str.contains(r"[^\x00-\x7f]")
    if not foreign.any():
        return done
    rows = foreign.arg_true()
    return done.scatter(rows, [normalise(text) for text in texts.gather(rows)])


def minhash(texts: Texts, shingle: int, bands: int, rows: int) -> Hashes:
    """Return a hash for each band of each text, shape (bands, n): equal where all its minima are.

    One-permutation hashing (Li, Owen and Zhang, 2012) of `shingle`-character shingles into bands × rows
    bins, empty ones filled by optimal densification (Shrivastava, 2017). Two texts of Jaccard
    similarity s share a band with probability s ** rows.
    """
    return _minhash(texts.data, texts.offsets, shingle, bands, rows)  # type: ignore[no-any-return]


def jaccard(texts: Texts, left: Numbers, right: Numbers, shingle: int) -> NDArray[numpy.float32]:
    """Return the Jaccard similarity of the shingle sets of pairs of texts, given by their numbers."""
    return _jaccard(texts.data, texts.offsets, left, right, shingle)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)
def _normalise(data: Bytes, offsets: Numbers) -> tuple[Bytes, Numbers]:
    out = numpy.empty(len(data), numpy.uint8)
    ends = numpy.zeros(len(offsets), numpy.int64)
    for text in range(len(offsets) - 1):
        first = ends[text]
        end = _normalise_one(data, offsets[text], offsets[text + 1], out, first, True)
        if end == first:  # a text of nothing but signs is compared by its signs
            end = _normalise_one(data, offsets[text], offsets[text + 1], out, first, False)
        ends[text + 1] = end
    return out[: ends[-1]], ends


@numba.njit(cache=True, nogil=True)
def _normalise_one(data: Bytes, at: int, end: int, out: Bytes, first: int, bare: bool) -> int:
    """Write a text in lower case and single spaces, if `bare` without quotes and stops at words' ends."""
    place = first
    gap = False
    while at < end:
        kind = KINDS[data[at]]
        if kind == SPACE:
            gap = place > first
            at += 1
            continue
        until = at + 1
        if bare and kind == QUOTE:
            at = until
            continue
        if bare and kind == STOP:
            while until < end and KINDS[data[until]] == STOP:
                until += 1
            if until == end or KINDS[data[until]] == SPACE:
                at = until
                continue
        if gap:
            out[place] = 32
            place += 1
            gap = False
        while at < until:
            out[place] = data[at] + 32 if 65 <= data[at] <= 90 else data[at]
            place += 1
            at += 1
    return place


@numba.njit(cache=True, nogil=True)
def mix(value: Any) -> Any:
    """Return the finaliser of splitmix64."""
    value = (value ^ (value >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return value ^ (value >> numpy.uint64(31))


@numba.njit(cache=True, nogil=True)
def _character(data: Bytes, at: int, end: int) -> tuple[Any, Any]:
    """Return the bytes of the character at a place as one number, and the place of the next."""
    code = numpy.uint64(data[at])
    at += 1
    while at < end and (data[at] & 0xC0) == 0x80:
        code = (code << numpy.uint64(8)) | numpy.uint64(data[at])
        at += 1
    return code, at


@numba.njit(cache=True, nogil=True)
def _shingles(data: Bytes, start: int, end: int, size: int, out: Hashes) -> int:
    """Write the hash of every run of `size` characters, or of a shorter text, and return how many."""
    power = numpy.uint64(1)
    for _ in range(size):
        power *= BASE
    count = 0
    held = numpy.uint64(0)
    head = tail = start
    length = 0
    while head < end:
        code, head = _character(data, head, end)
        held = held * BASE + code + numpy.uint64(1)
        length += 1
        if length > size:
            code, tail = _character(data, tail, end)
            held -= power * (code + numpy.uint64(1))
        if length >= size:
            out[count] = mix(held)
            count += 1
    if 0 < length < size:
        out[0] = mix(held)
        count = 1
    return count


@numba.njit(cache=True, nogil=True)
def _minhash(data: Bytes, offsets: Numbers, size: int, bands: int, rows: int) -> Hashes:
    bins = bands * rows
    texts = len(offsets) - 1
    longest = 1
    for text in range(texts):
        longest = max(longest, offsets[text + 1] - offsets[text])
    hashes = numpy.empty(longest, numpy.uint64)
    minima = numpy.empty(bins, numpy.uint64)
    dense = numpy.empty(bins, numpy.uint64)
    out = numpy.empty((bands, texts), numpy.uint64)
    low = numpy.uint64(0xFFFFFFFF)
    for text in range(texts):
        count = _shingles(data, offsets[text], offsets[text + 1], size, hashes)
        minima[:] = EMPTY
        for number in range(count):
            value = hashes[number]
            for _ in range(ROUNDS):
                place = ((value >> numpy.uint64(32)) * numpy.uint64(bins)) >> numpy.uint64(32)
                minima[place] = min(minima[place], value & low)
                value = value * BASE + numpy.uint64(1)
                value ^= value >> numpy.uint64(29)
        for place in range(bins):
            other = numpy.uint64(place)
            attempt = numpy.uint64(0)
            while minima[other] == EMPTY and count:
                attempt += numpy.uint64(1)
                drawn = mix(numpy.uint64(place) * BASE + attempt)
                other = ((drawn >> numpy.uint64(32)) * numpy.uint64(bins)) >> numpy.uint64(32)
            dense[place] = minima[other]
        for band in range(bands):
            value = numpy.uint64(band + 1)
            for row in range(rows):
                value = mix(value * BASE + dense[band * rows + row])
            out[band, text] = value
    return out


@numba.njit(cache=True, nogil=True)
def _jaccard(data: Bytes, offsets: Numbers, left: Numbers, right: Numbers, size: int) -> NDArray[numpy.float32]:
    longest = 1
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    slots = 2
    while slots < 4 * longest:  # both sets in a table at most half full
        slots *= 2
    table = numpy.empty(slots, numpy.uint64)
    owner = numpy.zeros(slots, numpy.uint8)
    hashes = numpy.empty(longest, numpy.uint64)
    out = numpy.empty(len(left), numpy.float32)
    for pair in range(len(left)):
        first = offsets[left[pair] + 1] - offsets[left[pair]]
        second = offsets[right[pair] + 1] - offsets[right[pair]]
        width = 2
        while width < 2 * (first + second):
            width *= 2
        owner[:width] = 0
        mask = numpy.uint64(width - 1)
        union = common = 0
        for side in (1, 2):
            text = left[pair] if side == 1 else right[pair]
            count = _shingles(data, offsets[text], offsets[text + 1], size, hashes)
            for number in range(count):
                place = hashes[number] & mask
                while owner[place] and table[place] != hashes[number]:
                    place = (place + numpy.uint64(1)) & mask
                if owner[place] == 0:
                    table[place] = hashes[number]
                    owner[place] = side
                    union += 1
                elif owner[place] == 1 and side == 2:
                    owner[place] = 3
                    common += 1
        out[pair] = common / union if union else 1.0
    return out
