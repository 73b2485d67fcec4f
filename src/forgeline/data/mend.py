"""The first pass of cleaning, a part at a time: repair, mask, judge, and take the fingerprints of what stays."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import orjson
import polars
import pyarrow
import pyarrow.compute
import xxhash
from numpy.typing import NDArray

from forgeline.config.schema import Data, NearDuplicates, Repair
from forgeline.data import kernels, rules, table
from forgeline.data.pii import Masker
from forgeline.data.repair import repair_texts
from forgeline.data.review import Decision, decisions
from forgeline.data.turns import Turns
from forgeline.lineage import value_digest
from forgeline.records import write_json

REMOVED = pyarrow.schema(
    [
        *table.SCHEMA,
        ("rule", pyarrow.string()),
        ("detail", pyarrow.string()),
        ("score", pyarrow.float64()),
        ("duplicate_of", pyarrow.string()),
    ]
)
MASK = r"\[[A-Z][A-Z_]+(?:_[a-z]{12})?\]"
REFERENCES = 59  # where a rank says, in four bits, how many references are missing to 15
KEYS = ("prompt", "reply", "exact", "name", "rank")


class Mended(NamedTuple):
    """A mended part: what stays, what the rules removed, and of what stays the fingerprints.

    `keys` has a row for each name of `KEYS`, shape (5, n): hashes of the normalised prompt, the
    normalised reply, the text as it stands and the id, and the rank among its duplicates, the lowest
    first. `bands` has the MinHash of `texts`, shape (bands, n), or none if near-duplicates stay.
    """

    kept: pyarrow.Table
    removed: pyarrow.Table
    keys: NDArray[numpy.uint64]
    bands: NDArray[numpy.uint64]
    texts: kernels.Texts
    counts: dict[str, dict[str, int]]


class Files(NamedTuple):
    """Where a mended part lies."""

    kept: Path
    removed: Path
    keys: Path
    bands: Path
    offsets: Path
    texts: Path
    counts: Path

    @classmethod
    def at(cls, stem: Path) -> Files:
        """Return the files of a stem."""
        names = ("kept.parquet", "removed.parquet", "keys.npy", "bands.npy", "offsets.npy", "texts.bin", "counts.json")
        return cls(*(stem.with_name(f"{stem.name}.{name}") for name in names))


def settings_digest(config: Data, root: Path) -> str:
    """Return what, beside a part's rows, its mended files depend on; the code is not among it."""
    pii = config.clean.pii
    key = os.environ.get(pii.key) if pii.replace == "pseudonym" else None
    decided = {name: decision.model_dump() for name, decision in decisions(root).items()}
    recognisers = (root / pii.recognisers).read_text(encoding="utf-8") if pii.recognisers else None
    settings = config.clean.model_dump(mode="json", exclude={"max_references"})
    return value_digest([settings, config.assess.groups, decided, recognisers, key])


def mend_part(task: tuple[Path, Path], config: Data, root: Path) -> None:
    """Mend a raw part, given with the stem of its mended files, which are written last to first needed."""
    part, stem = task
    files = Files.at(stem)
    if files.counts.exists():
        return
    mended = mend(table.read(part), config, Masker(config.clean.pii, root), decisions(root))
    table.write(files.kept, mended.kept)
    table.write(files.removed, mended.removed)
    arrays = ((files.keys, mended.keys), (files.bands, mended.bands), (files.offsets, mended.texts.offsets))
    for path, array in arrays:
        table.save_array(path, array)
    files.texts.write_bytes(mended.texts.data.tobytes())
    write_json(files.counts, mended.counts)  # the last file says that all are there


def counts_of(stem: Path) -> dict[str, dict[str, int]]:
    """Return what was counted while a part was mended."""
    counts: dict[str, dict[str, int]] = json.loads(Files.at(stem).counts.read_text(encoding="utf-8"))
    return counts


def mend(rows: pyarrow.Table, config: Data, masker: Masker, decided: dict[str, Decision]) -> Mended:
    """Return the rows of a part mended and judged. What is removed holds masked text, like what is kept."""
    masked: Counter[str] = Counter()

    def mask(texts: polars.Series) -> polars.Series:
        texts, found = masker.mask(texts)
        masked.update(found)
        return texts

    whole = pyarrow.compute.is_null(rows.column("fault"))
    faulty, rows = rows.filter(pyarrow.compute.invert(whole)), rows.filter(whole)
    for name in ("raw", "fault"):  # a fault quotes what it found
        faulty = table.replace(faulty, name, mask(table.series(faulty, name).fill_null("")))
    malformed = polars.DataFrame({"rule": ["malformed"] * len(faulty), "detail": table.series(faulty, "fault")})
    rows = _mend_texts(_anonymous(rows, masker), config.clean.repair, mask, decided)
    judged, dry = _judge(rows, config, decided)
    stays = judged["rule"].is_null()
    kept = rows.filter(stays.to_arrow())
    judged = judged.filter(~stays)
    removed = [with_verdict(faulty, malformed), with_verdict(rows.filter((~stays).to_arrow()), judged)]
    wanted = {name for name, decision in decided.items() if decision.verdict == "keep"}
    counts = {"rules": _counted(judged["rule"]) | _counted(malformed["rule"]), "dry": dry, "masked": dict(masked)}
    return Mended(
        kept, pyarrow.concat_tables(removed), *_fingerprints(kept, config.clean.near_duplicates, wanted), counts
    )


def _mend_texts(
    rows: pyarrow.Table,
    steps: Sequence[Repair],
    mask: Callable[[polars.Series], polars.Series],
    decided: dict[str, Decision],
) -> pyarrow.Table:
    """Return the rows with every text that a model could see edited, repaired and masked."""
    turns = Turns.of(rows.column("messages"))
    edits = {name: decision.completion for name, decision in decided.items() if decision.verdict == "edit"}
    if places := [place for place, name in enumerate(rows.column("id").to_pylist()) if name in edits] if edits else []:
        names = rows.column("id").take(places).to_pylist()
        turns = turns._replace(contents=turns.contents.scatter(turns.last[places], [edits[name] for name in names]))
    references = rows.column("references").combine_chunks()
    listed = polars.Series(references.flatten(), dtype=polars.String)
    rejected = table.series(rows, "rejected")
    given = rejected.is_not_null()
    texts = polars.concat([turns.contents, listed, rejected.filter(given)])
    # System turns and copies are repaired once; counts of what is masked are of all.
    codes = texts.to_arrow().dictionary_encode()
    repaired = repair_texts(polars.Series(codes.dictionary), steps)
    texts = mask(repaired.gather(codes.indices.to_numpy()))
    first, second = len(turns.contents), len(turns.contents) + len(listed)
    rejected = rejected.scatter(given.arg_true(), texts[second:])
    offsets = pyarrow.array(references.offsets.to_numpy() - (references.offsets[0].as_py()), pyarrow.int32())
    lists = pyarrow.ListArray.from_arrays(offsets, texts[first:second].to_arrow().cast(pyarrow.string()))
    rows = table.replace(rows, "messages", turns._replace(contents=texts[:first]).column())
    return table.replace(table.replace(rows, "references", lists), "rejected", rejected)


def _anonymous(rows: pyarrow.Table, masker: Masker) -> pyarrow.Table:
    """Return the rows without personal data in what names them: a digest stands for such a name."""
    for name in ("id", "key", "subject"):
        values = table.series(rows, name)
        known = values.is_not_null()
        shown = values.filter(known)
        personal = masker.mask(shown)[0] != shown
        if personal.any():
            places = known.arg_true().filter(personal)
            digests = [value_digest(value)[:16] for value in values.gather(places)]
            rows = table.replace(rows, name, values.scatter(places, digests))
    origins = table.series(rows, "origin")
    carrying = origins.str.contains('"fields":', literal=True).arg_true()
    if len(carrying):  # they stay in the raw row: nobody has masked them
        bare = [{k: v for k, v in orjson.loads(one).items() if k != "fields"} for one in origins.gather(carrying)]
        rows = table.replace(rows, "origin", origins.scatter(carrying, [table.to_json(one) for one in bare]))
    return table.replace(rows, "groups", masker.mask(table.series(rows, "groups"))[0])


def _judge(rows: pyarrow.Table, config: Data, decided: dict[str, Decision]) -> tuple[polars.DataFrame, dict[str, int]]:
    """Return rule, detail and score of each row, null where it stays, and what dry rules would remove."""
    turns = Turns.of(rows.column("messages"))
    completion = turns.contents.gather(turns.last)
    # A tag or pseudonym is judged as a word: its capitals and brackets are not the writer's.
    contents = turns.contents.str.replace_all(MASK, "something")
    prompt, conversation = turns.joined(contents, ~turns.is_last()), turns.joined(contents)
    identities = {word for groups in config.assess.groups.values() for words in groups.values() for word in words}
    rule, detail, score, dry = rules.failing(
        config.clean.rules, contents.gather(turns.last), prompt, conversation, identities
    )
    judged = polars.DataFrame({"id": table.series(rows, "id"), "rule": rule, "detail": detail, "score": score})
    for verdict, name in (("keep", None), ("drop", "reviewer")):
        ruled = {one.id: f"by {one.who}, {one.when}" for one in decided.values() if one.verdict == verdict}
        here = polars.col("id").is_in(list(ruled))
        said = polars.col("id").replace_strict(ruled, default=None, return_dtype=polars.String) if name else None
        judged = (
            judged.with_columns(
                rule=polars.when(here).then(polars.lit(name, polars.String)).otherwise("rule"),
                detail=polars.when(here).then(said).otherwise("detail"),
                score=polars.when(here).then(None).otherwise("score"),
            )
            if ruled
            else judged
        )
    empty = completion.str.len_bytes() == 0
    return judged.with_columns(
        rule=polars.when(empty).then(polars.lit("empty")).otherwise("rule"),
        detail=polars.when(empty).then(polars.lit("the completion is empty")).otherwise("detail"),
    ), dry


def _fingerprints(
    rows: pyarrow.Table, near: NearDuplicates | None, wanted: set[str]
) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint64], kernels.Texts]:
    """Return the keys, the bands and the compared texts of `Mended`."""
    turns = Turns.of(rows.column("messages"))
    normal = kernels.normalise_texts(turns.contents)
    reply = normal.gather(turns.last)
    prompt = turns.joined(turns.roles + ": " + normal, ~turns.is_last())
    prompt = prompt.zip_with(prompt != "", reply)  # plain text has no prompt but itself
    # Other preferences or labels make another example of the same reply.
    judged = (
        kernels.normalise_texts(table.series(rows, "rejected").fill_null(""))
        + "\0"
        + table.series(rows, "label").cast(polars.String).fill_null("")
    )
    exact = (
        turns.joined(turns.roles + ": " + turns.contents) + "\0" + table.series(rows, "rejected").fill_null("") + judged
    )
    names, references = table.series(rows, "id"), table.series(rows, "references").list.len().to_numpy()
    identity = _hashes(names + "\0" + exact + "\0" + table.series(rows, "origin"))
    keys = numpy.stack(
        [
            _hashes(prompt),
            _hashes(reply + "\0" + judged),
            _hashes(exact),
            _hashes(names),
            _ranks(names, references, turns.contents.gather(turns.last), identity, wanted),
        ]
    )
    if near is None:
        none = kernels.Texts(numpy.zeros(0, numpy.uint8), numpy.zeros(len(rows) + 1, numpy.int64))
        return keys, numpy.zeros((0, len(rows)), numpy.uint64), none
    texts = kernels.Texts.of(turns.joined(normal, turns.roles != "system"))
    return keys, kernels.minhash(texts, near.shingle, near.bands, near.rows), texts


def _ranks(
    names: polars.Series, references: NDArray[Any], reply: polars.Series, identity: NDArray[Any], wanted: set[str]
) -> NDArray[numpy.uint64]:
    """Return numbers that put the best copy first.

    Best is what people decided to keep, then most references, not shouted, the longest, and the lowest digest.
    """
    shouted = 2 * reply.str.count_matches("[A-Z]").to_numpy() > reply.str.count_matches("[A-Za-z]").to_numpy()
    longest = (1 << 22) - 1
    terms = [
        (63, ~names.is_in(list(wanted)).to_numpy()),
        (REFERENCES, 15 - numpy.minimum(references, 15)),
        (58, shouted),
        (36, longest - numpy.minimum(reply.str.len_chars().to_numpy(), longest)),
    ]
    ranks: NDArray[numpy.uint64] = identity >> numpy.uint64(28)
    for shift, term in terms:
        ranks |= term.astype(numpy.uint64) << numpy.uint64(shift)
    return ranks


def _hashes(texts: polars.Series) -> NDArray[numpy.uint64]:
    return numpy.fromiter(map(xxhash.xxh3_64_intdigest, texts.cast(polars.Binary)), numpy.uint64, len(texts))


def with_verdict(rows: pyarrow.Table, judged: polars.DataFrame) -> pyarrow.Table:
    """Return rows as quarantine keeps them, with the columns of `REMOVED` that a frame gives."""
    for field in list(REMOVED)[len(table.SCHEMA) :]:
        given = (
            judged[field.name].to_arrow().cast(field.type)
            if field.name in judged.columns
            else pyarrow.nulls(len(rows), field.type)
        )
        rows = rows.append_column(field, given)
    return rows.cast(REMOVED)


def _counted(names: polars.Series) -> dict[str, int]:
    return dict(Counter(names.to_list()))
