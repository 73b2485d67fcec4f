"""Loops over the bytes of a batch of texts, compiled: counts, repetition, and sums over words."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numba
import numpy
import polars
from numpy.typing import NDArray

from forgeline.data.kernels import Texts

Bytes = NDArray[numpy.uint8]
Offsets = NDArray[numpy.int64]
Hashes = NDArray[numpy.uint64]
Floats = NDArray[numpy.float64]

CHARS, WORDS, LETTERS, CAPITALS, DIGITS, SYMBOLS, SPACES = range(7)
COUNTS = 7
LETTER, CAPITAL, DIGIT, SPACE, MARK, SYMBOL = 1, 3, 4, 8, 16, 32

SEED = numpy.uint64(0xCBF29CE484222325)
PRIME = numpy.uint64(0x100000001B3)
ODD = numpy.uint64(0x9E3779B97F4A7C15)
EMPTY = numpy.uint64(0)


@functools.cache
def classes() -> Bytes:
    """Return what each code point is."""
    major = {"L": LETTER, "M": MARK, "N": DIGIT, "Z": SPACE, "C": SYMBOL, "P": SYMBOL, "S": SYMBOL}
    names = [unicodedata.category(chr(point)) for point in range(0x110000)]
    table = numpy.array([CAPITAL if name in ("Lu", "Lt") else major[name[0]] for name in names], numpy.uint8)
    table[[9, 10, 11, 12, 13, 28, 29, 30, 31, 0x85]] = SPACE  # controls that are spaces
    return table


def bytes_of(texts: polars.Series) -> Texts:
    """Return a batch of texts, the bytes read-only, which is the one type that the loops are compiled for."""
    data, offsets = Texts.of(texts.fill_null(""))
    data = data.view()
    data.flags.writeable = False
    return Texts(data, offsets)


@numba.njit(cache=True, nogil=True)
def count(data: Bytes, offsets: Offsets, kinds: Bytes) -> Offsets:  # pragma: no cover - compiled
    """Return an array (n, 7) of characters, words, letters, capitals, digits, symbols and spaces."""
    n = len(offsets) - 1
    counts = numpy.zeros((n, COUNTS), numpy.int64)
    for row in range(n):
        at, end = offsets[row], offsets[row + 1]
        chars = words = letters = capitals = digits = symbols = spaces = 0
        inside = False
        while at < end:
            byte = data[at]
            if byte < 0x80:
                point, at = numpy.int64(byte), at + 1
            elif byte < 0xE0:
                point, at = (byte & 0x1F) << 6 | data[at + 1] & 0x3F, at + 2
            elif byte < 0xF0:
                point, at = (byte & 0x0F) << 12 | (data[at + 1] & 0x3F) << 6 | data[at + 2] & 0x3F, at + 3
            else:
                point = (byte & 0x07) << 18 | (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6
                point, at = point | data[at + 3] & 0x3F, at + 4
            kind = kinds[point]
            chars += 1
            space = kind == SPACE
            words += not space and not inside
            inside = not space
            letters += kind & 1
            capitals += (kind & 2) >> 1
            digits += (kind & DIGIT) >> 2
            symbols += (kind & SYMBOL) >> 5
            spaces += space
        counts[row] = (chars, words, letters, capitals, digits, symbols, spaces)
    return counts


@numba.njit(cache=True, nogil=True)
def _seen(slots: Hashes, value: Any) -> bool:  # pragma: no cover - compiled
    """Say whether a value is in an open-addressing set, and put it there."""
    mask = numpy.uint64(len(slots) - 1)
    value = numpy.uint64(1) if value == EMPTY else value
    slot = (value * ODD >> numpy.uint64(32)) & mask
    while slots[slot] != EMPTY:
        if slots[slot] == value:
            return True
        slot = (slot + numpy.uint64(1)) & mask
    slots[slot] = value
    return False


@numba.njit(cache=True, nogil=True)
def repeated(data: Bytes, offsets: Offsets, lines: bool) -> Floats:  # pragma: no cover - compiled
    """Return the share of each text's word 3-grams, or of its non-empty lines, that came before in it.

    Words are runs of non-space and lines are taken without the spaces around them, byte for byte.
    """
    n = len(offsets) - 1
    shares = numpy.zeros(n, numpy.float64)
    longest = 0
    for row in range(n):
        longest = max(longest, offsets[row + 1] - offsets[row])
    hashes = numpy.zeros(longest // 2 + 2, numpy.uint64)
    slots = numpy.zeros(4, numpy.uint64)
    for row in range(n):
        found = 0
        value = pending = SEED
        inside = False
        for at in range(offsets[row], offsets[row + 1] + 1):
            byte = numpy.uint8(10) if at == offsets[row + 1] else data[at]
            space = byte == 32 or 9 <= byte <= 13
            if not space:
                # Spaces within a line wait until something follows them.
                value = (pending ^ numpy.uint64(byte)) * PRIME
                pending = value
                inside = True
            elif inside and lines and byte != 10:
                pending = (pending ^ numpy.uint64(32)) * PRIME
            elif inside:
                hashes[found] = value
                found += 1
                value = pending = SEED
                inside = False
        width = 1 if lines else 3
        items = found - width + 1
        if items < 2:
            continue
        size = 4
        while size < 2 * items:
            size *= 2
        if size > len(slots):
            slots = numpy.zeros(size, numpy.uint64)
        table = slots[:size]
        table[:] = EMPTY
        copies = 0
        for item in range(items):
            value = hashes[item]
            for other in range(item + 1, item + width):
                value = (value * ODD) ^ hashes[other]
            copies += _seen(table, value)
        shares[row] = copies / items
    return shares


# What a byte is to `spell`: in a word, between two parts of one, the end of a sentence, or the first of
# three bytes that are punctuation or an apostrophe.
PART, JOINER, STOP, WIDE = 1, 2, 3, 4
ROLES = numpy.zeros(256, numpy.uint8)
ROLES[[*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *range(0x80, 256)]] = PART
ROLES[[*b"'*@$"]], ROLES[[*b"\n.!?"]], ROLES[[0xE2, 0xE3, 0xEF]] = JOINER, STOP, WIDE
LOWER = numpy.array([byte + 32 if 65 <= byte <= 90 else byte for byte in range(256)], numpy.uint64)
APOSTROPHE = numpy.uint64(39)


@numba.njit(cache=True, nogil=True)
def spell(data: Bytes, offsets: Offsets) -> tuple[Hashes, Offsets, Offsets]:  # pragma: no cover - compiled
    """Return the hash of every word of a batch, the number of its sentence, and each text's first sentence.

    A word is a run of letters and digits, the ASCII ones in lower case, and of `'`, `*`, `@` and `$`
    between them; a possessive's `'s` is left out. A sentence ends at `.`, `!`, `?` and at a line's end.
    A word's hash is FNV-1a, 64 bits.
    """
    n = len(offsets) - 1
    room = len(data) // 2 + n + 2
    hashes, sentences = numpy.empty(room, numpy.uint64), numpy.empty(room, numpy.int64)
    first = numpy.zeros(n + 1, numpy.int64)
    found = sentence = 0
    for row in range(n):
        first[row] = sentence
        at, end = offsets[row], offsets[row + 1]
        value = solid = stem = SEED  # with joiners, up to the last letter, before an apostrophe
        tail = 0  # bytes from the apostrophe on; -1 if they are not `'s`
        inside = False
        while at <= end:
            byte = data[at] if at < end else numpy.uint8(10)
            role, width = ROLES[byte], 1
            folded = LOWER[byte]
            if role == WIDE:
                punctuation = data[at + 1] in (0x80, 0x81) if byte == 0xE2 else data[at + 1] in (0x80, 0xBC)
                role = PART
                if punctuation:
                    role, width = 0, 3
                    if byte == 0xE2 and data[at + 1] == 0x80 and data[at + 2] == 0x99:
                        role, folded = JOINER, APOSTROPHE
            if role == PART:
                value = (value ^ folded) * PRIME
                solid = value
                inside = True
                if tail > 0:
                    tail = 2 if tail == 1 and byte == 115 else -1
            elif inside and role == JOINER:
                if folded == APOSTROPHE:
                    stem, tail = solid, 1
                value = (value ^ folded) * PRIME
            elif inside:
                hashes[found] = stem if tail == 2 else solid
                sentences[found] = sentence
                found += 1
                value, tail, inside = SEED, 0, False
            if role == STOP:
                sentence += 1
            at += width
    first[n] = sentence
    return hashes[:found], sentences[:found], first


@numba.njit(cache=True, nogil=True)
def sum_weights(
    hashes: Hashes, sentences: Offsets, count: int, keys: Hashes, weights: Floats
) -> Floats:  # pragma: no cover - compiled
    """Return for each of `count` sentences the sum of its words' weights; `keys` are sorted by slot."""
    sums = numpy.zeros(count, numpy.float64)
    mask = numpy.uint64(len(keys) - 1)
    for word in range(len(hashes)):
        slot = (hashes[word] * ODD >> numpy.uint64(32)) & mask
        while keys[slot] != EMPTY:
            if keys[slot] == hashes[word]:
                sums[sentences[word]] += weights[slot]
                break
            slot = (slot + numpy.uint64(1)) & mask
    return sums


@numba.njit(cache=True, nogil=True)
def place(hashes: Hashes, values: Floats, keys: Hashes, weights: Floats) -> None:  # pragma: no cover - compiled
    """Put hashes and their weights into an open-addressing table of a power of two of slots."""
    mask = numpy.uint64(len(keys) - 1)
    for item in range(len(hashes)):
        slot = (hashes[item] * ODD >> numpy.uint64(32)) & mask
        while keys[slot] != EMPTY and keys[slot] != hashes[item]:
            slot = (slot + numpy.uint64(1)) & mask
        keys[slot], weights[slot] = hashes[item], values[item]
