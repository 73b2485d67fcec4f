"""Loops over batches of texts, compiled: word n-grams, and which texts share bands or n-grams with a held-out set."""

from __future__ import annotations

from typing import Any

import numba
import numpy

from forgeline.data.kernels import BASE, Bytes, Hashes, Numbers, Texts, mix

SHARED = 64  # texts of one band that are looked at
CANDIDATES = 16  # texts, those with the most bands in common, whose similarity is computed


def word_counts(texts: Texts) -> Numbers:
    """Return the number of words of each text."""
    return _word_counts(texts.data, texts.offsets)  # type: ignore[no-any-return]


def grams(texts: Texts, size: int) -> tuple[Hashes, Numbers]:
    """Return a hash of every run of `size` words, and the number of the text in which it stands."""
    return _grams(texts.data, texts.offsets, size)  # type: ignore[no-any-return]


def sieve(hashes: Hashes) -> Bytes:
    """Return a table of bits that says of most other hashes that they are not among these."""
    width = 16
    while width < 8 * len(hashes):
        width *= 2
    return _sieve(hashes, width)  # type: ignore[no-any-return]


def positions(hashes: Hashes, bits: Bytes, values: Hashes) -> Numbers:
    """Return where each value first stands in sorted hashes, given with their sieve, or −1."""
    return _positions(hashes, bits, values)  # type: ignore[no-any-return]


def candidates(hashes: Hashes, owners: Numbers, bits: Bytes, bands: Hashes, least: int) -> tuple[Numbers, Numbers]:
    """Return the pairs of texts, as (one of these, one of the owners), that have the most bands in common.

    Args:
        hashes: the bands of the held-out texts, sorted.
        owners: the text of each of them.
        bits: their sieve.
        bands: the bands of the texts to look for, shape (bands, n).
        least: how many bands a pair must have in common.
    """
    return _candidates(hashes, owners, bits, bands, least)  # type: ignore[no-any-return]


@numba.njit(cache=True, nogil=True)
def _word_counts(data: Bytes, offsets: Numbers) -> Numbers:
    out = numpy.zeros(len(offsets) - 1, numpy.int64)
    for text in range(len(offsets) - 1):
        inside = False
        for at in range(offsets[text], offsets[text + 1]):
            gap = data[at] == 32
            if not gap and not inside:
                out[text] += 1
            inside = not gap
    return out


@numba.njit(cache=True, nogil=True)
def _grams(data: Bytes, offsets: Numbers, size: int) -> tuple[Hashes, Numbers]:
    counts = _word_counts(data, offsets)
    total = 0
    for text in range(len(counts)):
        total += max(0, counts[text] - size + 1)
    out, owners = numpy.empty(total, numpy.uint64), numpy.empty(total, numpy.int64)
    ring = numpy.zeros(size, numpy.uint64)  # the hashes of the last words
    power = numpy.uint64(1)
    for _ in range(size):
        power *= BASE
    place = 0
    for text in range(len(counts)):
        at, end = offsets[text], offsets[text + 1]
        held = numpy.uint64(0)
        for word in range(counts[text]):
            while data[at] == 32:
                at += 1
            value = numpy.uint64(0)
            while at < end and data[at] != 32:
                value = value * BASE + numpy.uint64(data[at]) + numpy.uint64(1)
                at += 1
            value = mix(value)
            held = held * BASE + value
            if word >= size:
                held -= power * ring[word % size]
            ring[word % size] = value
            if word >= size - 1:
                out[place], owners[place] = mix(held), text
                place += 1
    return out, owners


@numba.njit(cache=True, nogil=True)
def _bit(value: Any, width: int) -> Any:
    return value & numpy.uint64(width - 1)


@numba.njit(cache=True, nogil=True)
def _sieve(hashes: Hashes, width: int) -> Bytes:
    bits = numpy.zeros(width // 8, numpy.uint8)
    for value in hashes:
        bit = _bit(value, width)
        bits[bit >> numpy.uint64(3)] |= numpy.uint8(1 << (bit & numpy.uint64(7)))
    return bits


@numba.njit(cache=True, nogil=True)
def _position(hashes: Hashes, bits: Bytes, value: Any) -> int:
    bit = _bit(value, 8 * len(bits))
    if not (bits[bit >> numpy.uint64(3)] >> (bit & numpy.uint64(7))) & 1:
        return -1
    place = numpy.searchsorted(hashes, value)
    return place if place < len(hashes) and hashes[place] == value else -1


@numba.njit(cache=True, nogil=True)
def _positions(hashes: Hashes, bits: Bytes, values: Hashes) -> Numbers:
    out = numpy.empty(len(values), numpy.int64)
    for number in range(len(values)):
        out[number] = _position(hashes, bits, values[number])
    return out


@numba.njit(cache=True, nogil=True)
def _candidates(hashes: Hashes, owners: Numbers, bits: Bytes, bands: Hashes, least: int) -> tuple[Numbers, Numbers]:
    met = numpy.empty(SHARED * bands.shape[0], numpy.int64)
    left, right = [0 for _ in range(0)], [0 for _ in range(0)]
    for text in range(bands.shape[1]):
        count = 0
        for band in range(bands.shape[0]):
            value = bands[band, text]
            place = _position(hashes, bits, value)
            if place < 0:
                continue
            for after in range(place, min(place + SHARED, len(hashes))):
                if hashes[after] != value:
                    break
                met[count] = owners[after]
                count += 1
        if count < least:
            continue
        run = numpy.sort(met[:count])
        # One number a distinct text that sorts by bands in common, most first, then by the text.
        codes = numpy.empty(count, numpy.int64)
        distinct = start = 0
        for number in range(1, count + 1):
            if number == count or run[number] != run[start]:
                if number - start >= least:
                    codes[distinct] = -((number - start) << 40) + run[start]
                    distinct += 1
                start = number
        for code in numpy.sort(codes[:distinct])[:CANDIDATES]:
            left.append(text)
            right.append(code & ((1 << 40) - 1))
    return numpy.array(left, numpy.int64), numpy.array(right, numpy.int64)
