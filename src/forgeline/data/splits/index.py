"""A held-out set as sorted hashes on disk: what the rows of another set are looked up in."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import orjson
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Data, NearDuplicates
from forgeline.data import engine, table
from forgeline.data.kernels import Hashes, Numbers, Texts, minhash
from forgeline.data.layout import NAMES
from forgeline.data.splits.overlap import grams, sieve, word_counts
from forgeline.data.splits.texts import COLUMNS, hashes, said
from forgeline.data.table import save_array

EXACT = ("key", "prompt", "conversation", "reply")
SHORTEST, LONGEST = 8, 13  # words of an n-gram
SAMPLED = 100_000  # conversations of a split whose texts are compared, not their hashes alone


class Digest(NamedTuple):
    """A part of a held-out set, the folder for what is to be looked up of it, and the rule for bands."""

    part: Path
    target: Path
    near: NearDuplicates


class HeldOut:
    """A held-out set of records, numbered in the order of its parts; their conversations are numbered too.

    The arrays are mapped from the disk: a process holds only what it touches.
    """

    def __init__(self, name: str, folder: Path, parts: list[Path]) -> None:
        self.name, self.folder, self.parts = name, folder, parts
        self.is_benchmark = name not in NAMES

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the arrays: sorted hashes, the `_owner` of each, or the `_sieve` of all."""
        # As plain arrays: a slice of a memmap costs far more.
        return numpy.asarray(numpy.load(self.folder / f"{name}.npy", mmap_mode="r"))

    @cached_property
    def records(self) -> int:
        """How many records there are."""
        return int(self.array("records")[0])

    @cached_property
    def size(self) -> int:
        """How many words an n-gram has."""
        return int(self.array("size")[0])

    def texts(self) -> Texts:
        """Return the normalised conversations that are compared: all of a benchmark, the first of a split."""
        return Texts(self.array("text"), self.array("offsets"))

    def batches(self) -> Iterator[tuple[int, Texts]]:
        """Yield the conversations a few at a time, with the number of the first."""
        data, offsets = self.texts()
        for start in range(0, len(offsets) - 1, table.PART_ROWS):
            bounds = offsets[start : start + table.PART_ROWS + 1]
            yield start, Texts(data[bounds[0] : bounds[-1]], bounds - bounds[0])

    def rows(self, numbers: list[int]) -> dict[int, dict[str, Any]]:
        """Return the records of some numbers."""
        found: dict[int, dict[str, Any]] = {}
        start = 0
        for part in self.parts:
            stop = start + table.count(part)
            if mine := sorted(number for number in set(numbers) if start <= number < stop):
                rows = table.read(part).take([number - start for number in mine])
                found |= zip(mine, table.to_rows(rows), strict=True)
            start = stop
        return found


def build(name: str, parts: list[Path], folder: Path, near: NearDuplicates, config: Data) -> HeldOut:
    """Return the index of a held-out set, written to a folder.

    Of a split, the texts of at most `SAMPLED` conversations are held: its parts are in the order of hashes,
    so that the first are a sample.

    An n-gram has as many words as the twentieth part of the conversations do not exceed, at least 8 and at
    most 13 (Brown et al., 2020, appendix C).
    """
    tasks = [Digest(part, folder / f"{number:05}", near) for number, part in enumerate(parts)]
    counts = list(engine.run(digest, tasks, config, f"{name}: hashes"))
    records = numpy.cumsum([0, *(count for count, _ in counts)])
    spoken = numpy.cumsum([0, *(count for _, count in counts)])

    def joined(kind: str, shift: NDArray[numpy.int64] | None = None) -> NDArray[Any]:
        shards = [numpy.load(task.target / f"{kind}.npy") for task in tasks]
        return numpy.concatenate([shard + (0 if shift is None else shift[n]) for n, shard in enumerate(shards)])

    for kind in EXACT:
        _sorted(folder, kind, joined(kind), joined(f"{kind}_owner", records))
    compared = SAMPLED if name in NAMES else int(spoken[-1])
    tasks = [task for task, before in zip(tasks, spoken, strict=False) if before < compared]
    owners = joined("near_owner", spoken)
    _sorted(folder, "near", joined("near")[owners < compared], owners[owners < compared])
    save_array(folder / "near_sieve.npy", sieve(numpy.load(folder / "near.npy")))
    save_array(folder / "text_owner.npy", joined("text_owner", records))
    save_array(folder / "text_hash.npy", joined("conversation"))
    offsets = numpy.concatenate([[0], numpy.cumsum(joined("lengths")[:compared])]).astype(numpy.int64)
    save_array(folder / "offsets.npy", offsets)
    save_array(folder / "text.npy", joined("text")[: offsets[-1]])
    words = joined("words")[:compared]
    size = int(numpy.clip(numpy.percentile(words, 5), SHORTEST, LONGEST)) if len(words) else LONGEST
    save_array(folder / "size.npy", numpy.array([size]))
    save_array(folder / "words.npy", words)
    save_array(folder / "records.npy", records[-1:])
    held = HeldOut(name, folder, parts)
    found, filled = numpy.empty(numpy.maximum(words - size + 1, 0).sum(), numpy.uint64), 0
    for _, texts in held.batches():
        some, _ = grams(texts, size)
        found[filled : filled + len(some)] = some
        filled += len(some)
    found.sort()
    save_array(folder / "gram.npy", found)
    save_array(folder / "gram_sieve.npy", sieve(found))
    return held


def digest(task: Digest) -> tuple[int, int]:
    """Write the hashes of a part; return how many records and conversations it has."""
    rows = table.read(task.part, [*COLUMNS, "key", "origin"])
    looked = lookups(rows, task.near)
    named = zip(rows["key"].to_pylist(), rows["origin"].to_pylist(), strict=True)
    keys = [[*orjson.loads(origin).get("keys", []), key] for key, origin in named]
    arrays: dict[str, NDArray[Any]] = {
        "key": hashes(polars.Series([key for own in keys for key in own], dtype=polars.String)),
        "key_owner": numpy.repeat(numpy.arange(len(keys)), [len(own) for own in keys]),
        "prompt": looked.prompts,
        "prompt_owner": numpy.arange(len(keys)),
        "conversation": looked.conversations,
        "conversation_owner": looked.owners,
        "reply": looked.replies,
        "reply_owner": looked.owners,
        "near": looked.bands.ravel(),
        "near_owner": numpy.tile(numpy.arange(len(looked.owners)), len(looked.bands)),
        "text": looked.texts.data,
        "text_owner": looked.owners,
        "lengths": numpy.diff(looked.texts.offsets),
        "words": word_counts(looked.texts),
    }
    for name, array in arrays.items():
        save_array(task.target / f"{name}.npy", array)
    return len(keys), len(looked.owners)


class Lookups(NamedTuple):
    """What of n rows and their conversations is looked up: hashes, bands, and the texts."""

    prompts: Hashes
    replies: Hashes
    conversations: Hashes
    owners: Numbers
    texts: Texts
    bands: Hashes


def lookups(rows: pyarrow.Table, near: NearDuplicates) -> Lookups:
    """Return what of rows is looked up."""
    spoken = said(rows)
    texts = Texts.of(spoken.conversations)
    bands = minhash(texts, near.shingle, near.bands, near.rows)
    prompts, replies, conversations = map(hashes, spoken[:3])
    return Lookups(prompts, replies, conversations, spoken.owners, texts, bands)


def _sorted(folder: Path, kind: str, values: Hashes, owners: Numbers) -> None:
    order = numpy.argsort(values, kind="stable")  # the owners of equal values ascend already
    save_array(folder / f"{kind}.npy", values[order])
    save_array(folder / f"{kind}_owner.npy", owners[order].astype(numpy.int32))
