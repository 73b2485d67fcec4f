"""Stage 2: repair, mask, filter and deduplicate; what leaves the line leaves a trace."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import orjson
import polars
import pyarrow

from forgeline.config.schema import Data
from forgeline.data import charts, engine, rules, table
from forgeline.data.layout import CACHE, KEPT, QUARANTINE, RAW, REPORTS
from forgeline.data.mend import Files, counts_of, mend_part, settings_digest, with_verdict
from forgeline.data.pii import Masker
from forgeline.data.settle import FATES, MERGED, Fates, Rest, extra_references, settle
from forgeline.data.settle import KEPT as KEEP
from forgeline.data.turns import flat_texts
from forgeline.errors import DataError
from forgeline.lineage import code_digest, file_digest, value_digest
from forgeline.records import write_json


def clean(root: Path, config: Data) -> dict[str, Any]:
    """Write the kept rows and the quarantine, and return the report.

    Parts that were mended before, with the same settings by the same code, are not mended again.

    Raises:
        DataError: if a row would be lost or invented, or if no row is left.
    """
    folder = (root / KEPT).parent
    unfinished = folder.with_name("clean.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    report = clean_into(unfinished, root, config)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    write_json(root / REPORTS / "clean.json", report)
    rows, reasons = report["rows"], Counter(report["reasons"])
    charts.fate(
        root / REPORTS, {"kept": rows["kept"], "merged into a twin": rows["merged"], **dict(reasons.most_common())}
    )
    return report


def clean_into(folder: Path, root: Path, config: Data) -> dict[str, Any]:
    """Write `kept/` and `quarantine/` into a folder and return the report."""
    rules.check(config.clean.rules)
    parts = table.parts(root / RAW)
    names = [part.relative_to(root / RAW) for part in parts]
    mended, work = root / CACHE / "mended", root / CACHE / "settled"
    settings = value_digest([settings_digest(config, root), code_digest("data")])
    stems = [mended / value_digest([settings, file_digest(part)])[:32] for part in parts]
    mend = partial(mend_part, config=config, root=root)
    for _ in engine.run(mend, list(zip(parts, stems, strict=True)), config, "mend"):
        pass
    rest = Rest.of(stems)
    fates = settle(rest, config, work)
    _hand_over(work, rest, fates)
    write = partial(_write_part, rest=rest, work=work, config=config, folder=folder, root=root)
    done = list(engine.run(write, list(enumerate(names)), config, "write"))
    for file in set(mended.iterdir()) - {file for stem in stems for file in Files.at(stem)}:
        file.unlink()
    shutil.rmtree(work)
    return _report(parts, rest, fates, done)


class Written(NamedTuple):
    """What a part came to: rows in either file, and personal data still found in what is kept."""

    kept: int
    removed: int
    leaks: int


def _hand_over(work: Path, rest: Rest, fates: Fates) -> None:
    """Write what the parts need to know of each other: fates, the ids of twins, and what they inherit."""
    work.mkdir(parents=True, exist_ok=True)
    table.save_array(work / "fate.npy", fates.fate)
    table.save_array(work / "twin.npy", fates.twin)
    table.save_array(work / "score.npy", fates.score)
    keepers, merged = numpy.unique(fates.twin[fates.twin >= 0], return_counts=True)
    ids: list[str] = []
    for part, stem in enumerate(rest.stems):
        here = keepers[(keepers >= rest.starts[part]) & (keepers < rest.starts[part + 1])] - rest.starts[part]
        ids += table.read(Files.at(stem).kept, ["id"]).column("id").take(here).to_pylist() if len(here) else []
    polars.DataFrame({"keeper": keepers, "merged": merged, "id": ids}).write_ipc(work / "keepers.arrow")
    extra_references(rest, fates).write_ipc(work / "extras.arrow")


def _write_part(task: tuple[int, Path], rest: Rest, work: Path, config: Data, folder: Path, root: Path) -> Written:
    """Write the kept and the quarantined rows of a part."""
    number, name = task
    start, stop = (int(row) for row in rest.starts[number : number + 2])
    files = Files.at(rest.stems[number])
    rows = table.read(files.kept)
    fate, twin, score = (
        numpy.load(work / f"{array}.npy", mmap_mode="r")[start:stop] for array in ("fate", "twin", "score")
    )
    keepers = polars.read_ipc(work / "keepers.arrow")
    kept = _enriched(rows, keepers, polars.read_ipc(work / "extras.arrow"), start, stop)
    kept = kept.filter(pyarrow.array(fate == KEEP))
    judged = polars.DataFrame({"keeper": twin, "fate": fate, "score": score.astype(float)}).filter(
        polars.col("fate") != KEEP
    )
    judged = judged.join(keepers, on="keeper", how="left", maintain_order="left").with_columns(
        rule=polars.col("fate").replace_strict(dict(enumerate(FATES)), return_dtype=polars.String),
        detail=_detail(config.clean.max_references),
        score=polars.col("score").fill_nan(None),
        duplicate_of="id",
    )
    removed = with_verdict(rows.filter(pyarrow.array(fate != KEEP)), judged)
    removed = pyarrow.concat_tables([table.read(files.removed), removed])
    for where, table_ in ((KEPT, kept), (QUARANTINE, removed)):
        if len(table_):
            table.write(folder / Path(where).name / name, table_)
    texts = [flat_texts(kept, column) for column in ("messages", "references", "rejected")]
    leaks = Masker(config.clean.pii, root).count(polars.concat(texts))
    return Written(len(kept), len(removed), sum(leaks.values()))


def _detail(cap: int) -> polars.Expr:
    alike = polars.format("similarity {} to its kept twin", polars.col("score").round(3))
    said = {
        "exact_duplicate": polars.lit("the same text as its kept twin"),
        "normalised_duplicate": polars.lit("the same words as its kept twin"),
        "near_duplicate": alike,
        "over_reference_cap": polars.lit(f"the prompt has {cap} replies already"),
    }
    detail = polars.lit("another row that is kept has this id")
    for fate, sentence in said.items():
        detail = polars.when(polars.col("fate") == FATES.index(fate)).then(sentence).otherwise(detail)
    return detail


def _enriched(
    rows: pyarrow.Table, keepers: polars.DataFrame, extras: polars.DataFrame, start: int, stop: int
) -> pyarrow.Table:
    """Return the rows of a part with what their merged twins leave them: a count, and references."""
    here = polars.col("keeper").is_between(start, stop, closed="left")
    own = keepers.filter(here)
    if not len(own):
        return rows
    places = (own["keeper"] - start).to_list()
    origins = polars.Series(rows.column("origin"))
    counted = [
        table.to_json({**orjson.loads(origin), "merged": merged})
        for origin, merged in zip(origins.gather(places), own["merged"], strict=True)
    ]
    rows = table.replace(rows, "origin", origins.scatter(places, counted))
    left = extras.filter(here).group_by("keeper", maintain_order=True).agg("text")
    if not len(left):
        return rows
    references = rows.column("references").to_pylist()
    messages = rows.column("messages")
    for keeper, texts in left.iter_rows():
        place = keeper - start
        given = [messages[place][-1]["content"].as_py(), *references[place], *texts]
        references[place] = list(dict.fromkeys(given))
    return table.replace(rows, "references", pyarrow.array(references, pyarrow.list_(pyarrow.string())))


def _report(parts: list[Path], rest: Rest, fates: Fates, done: list[Written]) -> dict[str, Any]:
    counts = [counts_of(stem) for stem in rest.stems]
    totals = {name: sum((Counter(one[name]) for one in counts), Counter()) for name in ("rules", "dry", "masked")}
    fallen = Counter(
        {
            name: int(count)
            for name, count in zip(FATES, numpy.bincount(fates.fate, minlength=len(FATES)), strict=True)
            if count
        }
    )
    kept, merged = fallen.pop("kept", 0), {name: fallen.pop(name, 0) for name in MERGED}
    reasons = totals["rules"] + fallen
    total = sum(table.count(part) for part in parts)
    rows = {"in": total, "kept": kept, "quarantined": reasons.total(), "merged": sum(merged.values())}
    written = (sum(one.kept for one in done), sum(one.removed for one in done))
    if written != (kept, total - kept) or total != kept + rows["quarantined"] + rows["merged"]:
        raise DataError(f"Cleaning lost or invented rows: {rows}, written {written}. Nothing was changed.")
    if not kept:
        worst = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise DataError(f"Cleaning left none of {total} rows ({worst}): look at data.clean and the source.")
    return {
        "rows": rows,
        "reasons": dict(sorted(reasons.items())),
        "duplicates": {name.removesuffix("_duplicate"): count for name, count in merged.items()},
        "dry": dict(sorted(totals["dry"].items())),
        "prompts": len(numpy.unique(rest.key("prompt")[fates.kept()])),
        "masked": dict(sorted(totals["masked"].items())),
        "unmasked_pii": sum(one.leaks for one in done),
    }
