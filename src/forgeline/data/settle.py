"""The second pass of cleaning: decide, from fingerprints alone, which rows are copies and which are too many.

Decisions depend on what the rows are, never on where they stand: shuffled rows settle alike, and what
was kept once is kept again. In memory are some 60 bytes a row; texts and bands stay on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import polars
from numpy.typing import NDArray

from forgeline.config.schema import Data, NearDuplicates
from forgeline.data import engine, kernels, table
from forgeline.data.mend import KEYS, REFERENCES, Files
from forgeline.data.unions import roots, unite

FATES = (
    "kept",
    "exact_duplicate",
    "normalised_duplicate",
    "near_duplicate",
    "over_reference_cap",
    "duplicate_id",
)
KEPT, EXACT, NORMALISED, NEAR, OVER_CAP, SAME_ID = range(len(FATES))
MERGED = FATES[EXACT : NEAR + 1]
PAIRS = 20_000  # compared at a time

Rows = NDArray[numpy.int64]


class Fates(NamedTuple):
    """What became of each row: an index into `FATES`, the row that stands for it, and how alike they are."""

    fate: NDArray[numpy.uint8]
    twin: Rows
    score: NDArray[numpy.float32]

    def kept(self) -> Rows:
        """Return the rows that stay."""
        return numpy.flatnonzero(self.fate == KEPT)


class Rest(NamedTuple):
    """Mended parts as one run of rows: part p holds the rows starts[p] to starts[p + 1]."""

    stems: Sequence[Path]
    starts: Rows

    @classmethod
    def of(cls, stems: Sequence[Path]) -> Rest:
        """Return the rows of mended parts, given by their stems."""
        sizes = [numpy.load(Files.at(stem).keys, mmap_mode="r").shape[1] for stem in stems]
        return cls(stems, numpy.concatenate([[0], numpy.cumsum(sizes)]).astype(numpy.int64))

    def key(self, name: str) -> NDArray[numpy.uint64]:
        """Return one of the keys of every row."""
        place = KEYS.index(name)
        return numpy.concatenate([numpy.load(Files.at(stem).keys, mmap_mode="r")[place] for stem in self.stems])

    def band(self, number: int) -> NDArray[numpy.uint64]:
        """Return one band of every row."""
        return numpy.concatenate([numpy.load(Files.at(stem).bands, mmap_mode="r")[number] for stem in self.stems])

    def texts(self, rows: Rows) -> kernels.Texts:
        """Return the compared texts of some rows, given in ascending order."""
        parts = numpy.searchsorted(self.starts, rows, side="right") - 1
        pieces: list[bytes] = []
        for part in numpy.unique(parts):
            files = Files.at(self.stems[part])
            offsets = numpy.load(files.offsets)
            with files.texts.open("rb") as file:
                for row in rows[parts == part] - self.starts[part]:
                    file.seek(int(offsets[row]))
                    pieces.append(file.read(int(offsets[row + 1] - offsets[row])))
        ends = numpy.cumsum([0, *map(len, pieces)], dtype=numpy.int64)
        return kernels.Texts(numpy.frombuffer(b"".join(pieces), numpy.uint8), ends)


def settle(rest: Rest, config: Data, folder: Path) -> Fates:
    """Return the fate of every mended row; a copy's twin is the best of its kind, which stays."""
    fates = _copies(rest)
    if config.clean.near_duplicates:
        _near_copies(rest, fates, config, config.clean.near_duplicates, folder)
    _over_cap(rest, fates, config.clean.max_references)
    kept, name, rank = fates.kept(), rest.key("name"), rest.key("rank")
    order = kept[numpy.lexsort((rank[kept], name[kept]))]
    fates.fate[order[_place_in_run(name[order]) > 0]] = SAME_ID
    # A copy of what did not stay after all shares its fate.
    copies = numpy.flatnonzero(fates.twin >= 0)
    lost = copies[fates.fate[fates.twin[copies]] != KEPT]
    fates.fate[lost] = fates.fate[fates.twin[lost]]
    fates.twin[lost], fates.score[lost] = -1, numpy.nan
    return fates


def extra_references(rest: Rest, fates: Fates) -> polars.DataFrame:
    """Return the texts that merged rows leave to their twins' references: columns `keeper` and `text`.

    Only of rows with the very prompt of the twin: what answers another prompt may be wrong for this one.
    """
    prompt, rank = rest.key("prompt"), rest.key("rank")
    merged = numpy.flatnonzero(fates.twin >= 0)
    merged = merged[prompt[merged] == prompt[fates.twin[merged]]]
    with_references = ((rank[merged] >> numpy.uint64(REFERENCES)) & numpy.uint64(15)) < 15
    merged = merged[with_references | (fates.fate[merged] == NEAR)]
    keepers: list[int] = []
    texts: list[str] = []
    for part, stem in enumerate(rest.stems):
        here = merged[(merged >= rest.starts[part]) & (merged < rest.starts[part + 1])]
        if not len(here):
            continue
        rows = table.read(Files.at(stem).kept, ["messages", "references"]).take(here - rest.starts[part]).to_pylist()
        for row, place in zip(rows, here, strict=True):
            completion = [row["messages"][-1]["content"]] if fates.fate[place] == NEAR else []
            keepers += [int(fates.twin[place])] * (len(completion) + len(row["references"]))
            texts += [*completion, *row["references"]]
    schema = {"keeper": polars.Int64, "text": polars.String}
    return polars.DataFrame({"keeper": keepers, "text": texts}, schema=schema).unique().sort("keeper", "text")


def _copies(rest: Rest) -> Fates:
    """Return fates in which rows of equal normalised prompt and reply are merged into the best of them."""
    prompt, reply, exact, rank = (rest.key(name) for name in ("prompt", "reply", "exact", "rank"))
    order = numpy.lexsort((rank, reply, prompt))
    first = numpy.ones(len(order), dtype=bool)
    first[1:] = (prompt[order[1:]] != prompt[order[:-1]]) | (reply[order[1:]] != reply[order[:-1]])
    best = numpy.empty(len(order), numpy.int64)
    best[order] = order[numpy.flatnonzero(first)[numpy.cumsum(first) - 1]] if len(order) else order
    copy = best != numpy.arange(len(order))
    fate = numpy.where(copy, numpy.where(exact == exact[best], EXACT, NORMALISED), KEPT).astype(numpy.uint8)
    return Fates(fate, numpy.where(copy, best, -1), numpy.where(copy, 1, numpy.nan).astype(numpy.float32))


def _near_copies(rest: Rest, fates: Fates, config: Data, near: NearDuplicates, folder: Path) -> None:
    """Merge rows that are alike, directly or through others, into the best of them; write into `fates`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.save_array(folder / "kept.npy", fates.kept())
    bucket = partial(_bucket, rest=rest, folder=folder)
    few = len(rest.stems) < engine.FEW  # little work a band
    buckets = (
        map(bucket, range(near.bands)) if few else engine.run(bucket, range(near.bands), config, "near-duplicates")
    )
    parent = numpy.arange(len(fates.fate))
    for path in buckets:
        rows, starts = (numpy.load(path.with_suffix(kind)) for kind in (".rows.npy", ".starts.npy"))
        for left, right in _pairs(rows, starts, parent):
            alike = _similarity(rest, left, right, near) >= near.threshold
            unite(parent, left[alike], right[alike])
    root = roots(parent, numpy.arange(len(parent)))
    rank = rest.key("rank")
    members = numpy.flatnonzero((numpy.bincount(root, minlength=len(root)) > 1)[root])
    order = members[numpy.lexsort((rank[members], root[members]))]
    place = _place_in_run(root[order])
    best = order[numpy.arange(len(order)) - place]
    merged = order != best
    rows, keepers = order[merged], best[merged]
    fates.fate[rows], fates.twin[rows] = NEAR, keepers
    fates.score[rows] = _similarity(rest, rows, keepers, near)
    copies = numpy.flatnonzero(fates.twin >= 0)  # a copy of a row that has just been merged
    moved = copies[fates.twin[fates.twin[copies]] >= 0]
    fates.twin[moved] = fates.twin[fates.twin[moved]]


def _over_cap(rest: Rest, fates: Fates, cap: int) -> None:
    """Mark, in `fates`, the replies to a prompt beyond the cap: those that most rows say stay, then by hash.

    The hash of the id favours neither length nor source. What people decided to keep is not counted out.
    """
    kept = fates.kept()
    prompt, name, rank = (rest.key(key)[kept] for key in ("prompt", "name", "rank"))
    wanted = rank >> numpy.uint64(63) == 0
    copies = numpy.bincount(fates.twin[fates.twin >= 0], minlength=len(fates.fate))[kept]
    order = numpy.lexsort((rank, name, -copies, ~wanted, prompt))
    over = (_place_in_run(prompt[order]) >= cap) & ~wanted[order]
    fates.fate[kept[order[over]]] = OVER_CAP


def _bucket(band: int, rest: Rest, folder: Path) -> Path:
    """Write the rows that share a band, run by run, and where each run starts; return the files' stem."""
    kept = numpy.load(folder / "kept.npy")
    values = rest.band(band)[kept]
    order = numpy.argsort(values, kind="stable")
    values = values[order]
    alone = numpy.ones(len(values) + 1, dtype=bool)
    alone[1:-1] = values[1:] != values[:-1]
    shared = ~(alone[:-1] & alone[1:])  # not both the first and the last of its run
    path = folder / f"band-{band}.npy"
    table.save_array(path.with_suffix(".rows.npy"), kept[order[shared]])
    table.save_array(path.with_suffix(".starts.npy"), numpy.flatnonzero(alone[:-1][shared]))
    return path


def _pairs(rows: Rows, starts: Rows, parent: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Yield the pairs within each run that are not one yet, in batches: neighbours first, then further apart."""
    first = numpy.repeat(starts, numpy.diff(numpy.append(starts, len(rows))))
    active = numpy.arange(len(rows))
    lag = 1
    while len(active := active[active - lag >= first[active]]):
        for start in range(0, len(active), PAIRS):
            here = active[start : start + PAIRS]
            left, right = rows[here - lag], rows[here]
            apart = roots(parent, left) != roots(parent, right)
            if apart.any():
                yield left[apart], right[apart]
        lag += 1


def _similarity(rest: Rest, left: Rows, right: Rows, near: NearDuplicates) -> NDArray[numpy.float32]:
    scores = [numpy.zeros(0, numpy.float32)]
    for start in range(0, len(left), PAIRS):
        pairs = numpy.stack([left[start : start + PAIRS], right[start : start + PAIRS]])
        rows, places = numpy.unique(pairs, return_inverse=True)
        one, other = places.reshape(pairs.shape)
        scores.append(kernels.jaccard(rest.texts(rows), one, other, near.shingle))
    return numpy.concatenate(scores)


def _place_in_run(values: NDArray[Any]) -> Rows:
    """Return for each of some sorted values how many equal ones stand before it."""
    places = numpy.arange(len(values))
    first = numpy.ones(len(values), dtype=bool)
    first[1:] = values[1:] != values[:-1]
    return places - places[first][numpy.cumsum(first) - 1] if len(values) else places
