"""What rows have in common with held-out sets: keys, normalised texts, near-duplicates, n-grams."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy
import polars
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Data, NearDuplicates
from forgeline.data import engine, table
from forgeline.data.kernels import Hashes, Numbers, Texts, jaccard
from forgeline.data.splits.deal import TRAIN
from forgeline.data.splits.dealt import Dealt
from forgeline.data.splits.index import HeldOut, Lookups, lookups
from forgeline.data.splits.overlap import candidates, grams, positions, sieve
from forgeline.data.splits.texts import find, hashes
from forgeline.data.table import save_array

LEAKS = ("key", "prompt", "conversation")
KINDS = (*LEAKS, "near_duplicate")
REPEATED = 10  # rows with an n-gram beyond which it is a set phrase, no leak (Brown et al., 2020, appendix C)
BATCH = 2_000  # conversations whose near-duplicates are looked for at a time
MISSED = 0.002
EXAMPLES = 3
EXCERPT = 160  # characters


class Seen(NamedTuple):
    """Rows to look up (the training rows of a dealt part, or a whole part), in which sets, and where to write."""

    rows: Dealt | Path
    against: list[HeldOut]
    near: NearDuplicates
    target: Path

    def table(self) -> pyarrow.Table:
        """Return the rows."""
        if isinstance(self.rows, Dealt):
            return self.rows.table(self.rows.array("fate") == TRAIN)
        return table.read(self.rows)

    def file(self, held: HeldOut, what: str) -> Path:
        """Return where something found in common with a held-out set is written."""
        return self.target / f"{held.name}.{what}.npy"


class Met(NamedTuple):
    """Pairs of a row and a record that have something in common, and all records met."""

    rows: Numbers
    paired: Numbers
    records: Numbers


Pairs = list[tuple[int, str, str]]  # (record, id of the row, what the row says)
Found = dict[str, dict[str, tuple[int, Pairs]]]  # by set and kind: how many rows met it, and the first pairs


def look_up(task: Seen) -> Found:
    """Look rows up in held-out sets.

    For each set, writes the numbers of its records that were met, a kind; how many rows hold each of its
    n-grams; and two masks of the rows: `same` if they have a prompt or conversation of it, `alike` if they
    have that or a near-duplicate.
    """
    rows = task.table()
    looked = lookups(rows, task.near)
    each = numpy.arange(rows.num_rows)
    keys = hashes(polars.Series(rows["key"].to_pylist(), dtype=polars.String))
    sized = {size: grams(looked.texts, size) for size in {held.size for held in task.against}}
    found: Found = {}
    for held in task.against:
        met = {
            "key": _exact(held, "key", keys, each),
            "prompt": _exact(held, "prompt", looked.prompts, each),
            "conversation": _exact(held, "conversation", looked.conversations, looked.owners),
            "reply": _exact(held, "reply", looked.replies, looked.owners),
            "near_duplicate": _near(held, looked, task.near),
        }
        for kind, one in met.items():
            save_array(task.file(held, kind), one.records)
        # An equal key is no equal text: files of other people number their rows too.
        same = numpy.isin(each, numpy.concatenate([met["prompt"].rows, met["conversation"].rows]))
        save_array(task.file(held, "same"), same)
        save_array(task.file(held, "alike"), same | numpy.isin(each, met["near_duplicate"].rows))
        values, texts = sized[held.size]
        places = positions(held.array("gram"), held.array("gram_sieve"), values)
        held_by = numpy.unique(numpy.stack([places, looked.owners[texts]])[:, places >= 0], axis=1)[0]
        save_array(task.file(held, "grams"), numpy.stack(numpy.unique(held_by, return_counts=True)))
        found[held.name] = {kind: (len(numpy.unique(met[kind].rows)), _first(rows, met[kind])) for kind in KINDS}
    return found


def measure(tasks: list[Seen], held_out: list[HeldOut], config: Data) -> dict[str, dict[str, Any]]:
    """Return, by set, how many records of it the rows of all tasks have something in common with.

    A report counts `records`, the conversations `compared` by near-duplicates and n-grams, the `leaks` among
    the records (an equal key, prompt or conversation), those that each kind of `KINDS` found, and those with
    a `reply` that is also given in the rows; `rows` counts the rows that each kind found. `ngrams` counts
    records that share a run of words, and `examples` shows the first pairs of each kind.
    """
    done = list(engine.run(look_up, tasks, config, "contamination"))
    return {
        held.name: _report(
            held,
            [task for task in tasks if held in task.against],
            [found[held.name] for found in done if held.name in found],
        )
        for held in held_out
    }


def _report(held: HeldOut, tasks: list[Seen], found: list[dict[str, tuple[int, Pairs]]]) -> dict[str, Any]:
    counts = numpy.zeros(len(held.array("gram")), numpy.uint32)
    for task in tasks:
        places, rows = numpy.load(task.file(held, "grams"))
        counts[places] += rows.astype(numpy.uint32)
    met = {
        kind: numpy.unique(numpy.concatenate([numpy.load(task.file(held, kind)) for task in tasks]))
        for kind in (*KINDS, "reply")
    }
    examples = {kind: _shown(held, [pair for one in found for pair in one[kind][1]]) for kind in KINDS}
    return {
        "records": held.records,
        "compared": len(held.array("words")),
        "leaks": len(numpy.unique(numpy.concatenate([met[kind] for kind in LEAKS]))),
        **{kind: len(met[kind]) for kind in met},
        "rows": {kind: sum(one[kind][0] for one in found) for kind in KINDS},
        "ngrams": _ngrams(held, counts),
        "examples": {kind: shown for kind, shown in examples.items() if shown},
    }


def _ngrams(held: HeldOut, counts: NDArray[numpy.uint32]) -> dict[str, Any]:
    """Return how many records share an n-gram with rows, given how many rows hold each."""
    shared = counts > 0
    hot, rows = held.array("gram")[shared], counts[shared]
    bits, owner = sieve(hot), held.array("text_owner")
    shares, unusual = numpy.zeros(held.records, bool), numpy.zeros(held.records, bool)
    examples: list[dict[str, Any]] = []
    for start, texts in held.batches():
        values, numbers = grams(texts, held.size)
        places = positions(hot, bits, values)
        met = places >= 0
        shares[owner[start:][numbers[met]]] = True
        unusual[owner[start:][numbers[met][rows[places[met]] <= REPEATED]]] = True
        _, first = numpy.unique(numbers[met], return_index=True)
        for at in numpy.flatnonzero(met)[first[: EXAMPLES - len(examples)]]:
            words = texts.series()[int(numbers[at])].split(" ")
            begin = int(at - numpy.searchsorted(numbers, numbers[at]))
            examples.append({"words": " ".join(words[begin : begin + held.size]), "rows": int(rows[places[at]])})
    words_of = held.array("words")
    long = len(numpy.unique(owner[: len(words_of)][words_of >= held.size]))
    share = int(shares.sum()) / long if long else 0.0
    sample = " of a sample" if len(words_of) < len(held.array("conversation")) else ""
    finding = (
        f"{share:.1%} of the {long:,} records{sample} with {held.size} words or more share a run of {held.size} "
        f"words with training rows, {int(unusual.sum()):,} of them one that at most {REPEATED} rows hold. Formulaic "
        "text shares many without sharing what it says, so this removes nothing: keys, texts and near-duplicates "
        "tell more."
    )
    counted = {"words": held.size, "long_enough": long, "records": int(shares.sum()), "share": round(share, 4)}
    return {**counted, "records_unusual": int(unusual.sum()), "finding": finding, "examples": examples}


def _exact(held: HeldOut, kind: str, values: Hashes, owners: Numbers) -> Met:
    """Return what rows and records have an equal hash."""
    known, record = held.array(kind), held.array(f"{kind}_owner")
    places = find(known, values)
    hit = places >= 0
    first = numpy.unique(places[hit])
    lengths = numpy.searchsorted(known, known[first], side="right") - first
    every = numpy.repeat(first - numpy.cumsum(lengths) + lengths, lengths) + numpy.arange(lengths.sum())
    return Met(owners[hit], record[places[hit]].astype(numpy.int64), numpy.unique(record[every]).astype(numpy.int64))


def _near(held: HeldOut, looked: Lookups, near: NearDuplicates) -> Met:
    """Return what rows and records are near-duplicates, but not the same text."""
    known, owner, bits = held.array("near"), held.array("near_owner"), held.array("near_sieve")
    texts, same, least = held.texts(), held.array("text_hash"), _least_in_common(near)
    rows, records = [numpy.zeros(0, numpy.int64)], [numpy.zeros(0, numpy.int64)]
    for start in range(0, len(looked.owners), BATCH):
        left, right = candidates(
            known, owner, bits, numpy.ascontiguousarray(looked.bands[:, start : start + BATCH]), least
        )
        left += start
        differ = looked.conversations[left] != same[right]
        left, right = left[differ], right[differ]
        if not len(left):
            continue
        ours, mine = numpy.unique(left, return_inverse=True)
        theirs, other = numpy.unique(right, return_inverse=True)
        both = _joined(_some(looked.texts, ours), _some(texts, theirs))
        close = jaccard(both, mine, other + len(ours), near.shingle) >= near.threshold
        rows.append(looked.owners[left[close]])
        records.append(held.array("text_owner")[right[close]].astype(numpy.int64))
    paired = numpy.concatenate(records)
    return Met(numpy.concatenate(rows), paired, numpy.unique(paired))


def _least_in_common(near: NearDuplicates) -> int:
    """Return how many bands a pair must have in common: two, if that misses few pairs at the threshold.

    Most pairs that have only one in common are far below it.
    """
    equal = near.threshold**near.rows
    fewer = (1 - equal) ** near.bands + near.bands * equal * (1 - equal) ** (near.bands - 1)
    return 2 if fewer < MISSED else 1


def _some(texts: Texts, numbers: Numbers) -> Texts:
    starts, ends = texts.offsets[numbers], texts.offsets[numbers + 1]
    pieces = [texts.data[start:end] for start, end in zip(starts, ends, strict=True)]
    return Texts(numpy.concatenate(pieces), numpy.concatenate([[0], numpy.cumsum(ends - starts)]))


def _joined(one: Texts, other: Texts) -> Texts:
    return Texts(
        numpy.concatenate([one.data, other.data]),
        numpy.concatenate([one.offsets, other.offsets[1:] + one.offsets[-1]]),
    )


def _first(rows: pyarrow.Table, met: Met) -> Pairs:
    """Return a pair for each of the lowest records: what is shown does not depend on the order of rows."""
    pairs: Pairs = []
    for record in numpy.unique(met.paired)[:EXAMPLES]:
        mine = rows.take(numpy.unique(met.rows[met.paired == record]))
        first = min(table.to_rows(mine), key=lambda row: str(row["id"]))
        pairs.append((int(record), first["id"], _excerpt(first)))
    return pairs


def _shown(held: HeldOut, pairs: Pairs) -> list[dict[str, str]]:
    first: Pairs = []
    for pair in sorted(pairs):
        if len(first) < EXAMPLES and pair[0] not in {record for record, *_ in first}:
            first.append(pair)
    records = held.rows([record for record, *_ in first])
    return [
        {"record": records[record]["id"], "says": _excerpt(records[record]), "row": name, "row_says": said}
        for record, name, said in first
    ]


def _excerpt(row: dict[str, Any]) -> str:
    text = " | ".join(turn["content"] for turn in row["messages"] if turn["role"] != "system")
    return text if len(text) <= EXCERPT else f"…{text[-EXCERPT:]}"
