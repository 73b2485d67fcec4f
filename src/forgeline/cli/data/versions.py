"""`forgeline data log|diff|rollback|plots`: the data as they were, and are."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgeline.cli.options import Json, Reason

if TYPE_CHECKING:
    from forgeline.data.comparison import Comparison, Number

NAMED = "A revision, the beginning of a version's digest, or `workspace`."


def log(
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many versions at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List the dataset versions in git's history, newest first: rows, and what moved since the one before."""
    from forgeline.cli.output import emit, table
    from forgeline.config import find_root
    from forgeline.data import history
    from forgeline.data.comparison import moved_numbers

    root = find_root()
    here = history.workspace(root)
    versions = [*([here] if here else []), *islice(history.log(root), number + 1)]
    reports = [history.reports(root, version) for version in versions]
    moved = [moved_numbers(older, newer) for newer, older in pairwise(reports)] + [{}]
    shown = list(zip(versions, reports, moved, strict=True))[: number + bool(here)]
    if as_json:
        emit([_entry(version, here, history.counts(found), numbers) for version, found, numbers in shown])
        return
    rows = []
    for version, found, numbers in shown:
        rows_of = history.counts(found)
        same = "*" if here and version.digest == here.digest else ""
        counted = [rows_of.get(name, "") for name in ("kept", "train", "test")]
        who = (version.revision[:10], version.date[:16], version.author, version.subject)
        rows.append((same, version.digest[:12], *who, *counted, _headline(numbers)))
    headings = ("", "version", "revision", "when", "who", "what", "kept", "train", "test", "moved since the one before")
    table("dataset versions (* as in the workspace)", headings, rows)


def diff(
    before: Annotated[str, typer.Argument(help=NAMED)] = "HEAD",
    after: Annotated[str, typer.Argument(help=NAMED)] = "workspace",
    rows: Annotated[int, typer.Option("--rows", min=0, help="Examples of each kind in each split.")] = 3,
    as_json: Json = False,
) -> None:
    """Say which rows came, went and changed between two versions, and how the numbers of their reports moved."""
    from forgeline.cli.output import emit, reserved
    from forgeline.config import find_root
    from forgeline.data import history
    from forgeline.data.comparison import compare

    root = find_root()
    with reserved(as_json):
        compared = compare(root, history.find(root, before), history.find(root, after), rows)
    if as_json:
        emit(compared.model_dump(mode="json"))
    else:
        _tell(compared)


def rollback(version: Annotated[str, typer.Argument(help=NAMED)], reason: Reason, as_json: Json = False) -> None:
    """Bring the data, dvc.lock, the data settings, reports and sources back to a version; commit it yourself."""
    from forgeline.cli.output import emit, reserved
    from forgeline.config import load
    from forgeline.data import history
    from forgeline.ledger import Ledger

    config = load()
    with reserved(as_json):
        done = history.roll_back(config.root, history.find(config.root, version))
    facts = {"data_digest": done.version.digest, "revision": done.version.revision, "data_before": done.before}
    entry = Ledger(config.root / config.project.stores.ledger).append("data rolled back", reason=reason, **facts)
    if as_json:
        emit({**facts, "ledger_entry": entry.number, "stale": done.stale})
        return
    print(f"The data are version {done.version.name} again (ledger entry {entry.number}).")
    print(f"Git has it staged, not committed: git commit -m 'Roll the data back to {done.version.digest[:12]}'")
    for stage, names in done.stale.items():
        print(
            f"`forgeline data` would run {stage} again: {', '.join(names)} changed since, which is no part of a version"
        )


def plots(
    revisions: Annotated[list[str] | None, typer.Argument(help="Draw these over one another.")] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path(".forgeline/plots.html"),
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the charts of the data as one page that needs no network; `dvc plots show` then needs none either."""
    from forgeline.config import find_root
    from forgeline.data.versions import draw

    root = find_root()
    page = root / out
    count = draw(root, revisions or [], page)
    print(f"{count} charts: {page.as_uri()}")
    if show:
        typer.launch(page.as_uri())


def _entry(version: Any, here: Any, counts: dict[str, int], moved: dict[str, Number]) -> dict[str, Any]:
    return {
        "digest": version.digest,
        "revision": version.revision,
        "date": version.date,
        "author": version.author,
        "subject": version.subject,
        "in_workspace": here is not None and version.digest == here.digest,
        "rows": counts,
        "moved": {name: number.model_dump() for name, number in moved.items()},
    }


def _headline(moved: dict[str, Number], most: int = 3) -> str:
    """Return the numbers highest up in their reports that moved furthest for their size, and how many more did."""

    def far(item: tuple[str, Number]) -> tuple[int, float]:
        name, number = item
        size = max(abs(number.before or 0), abs(number.after or 0))
        return name.count("."), -abs(number.difference) / size if number.difference is not None else 0

    ranked = sorted(moved.items(), key=far)
    told = [f"{name} {_show(number.before)} → {_show(number.after)}" for name, number in ranked[:most]]
    return ", ".join(told) + (f" and {len(ranked) - most} more" if len(ranked) > most else "")


def _tell(compared: Comparison) -> None:
    import json

    from forgeline.cli.output import table

    print(f"from {compared.before} to {compared.after}")
    kinds = ("came", "went", "changed", "moved_in", "moved_out")
    for title, counted in (("rows by split", compared.splits), ("rows by source", compared.sources)):
        some = kinds if title == "rows by split" else kinds[:3]
        table(title, ("", *some), [(name, *(getattr(each, kind) for kind in some)) for name, each in counted.items()])
    rules = [
        (rule, *pair, compared.taken.get(rule, 0), compared.released.get(rule, 0))
        for rule, pair in compared.quarantine.items()
    ]
    table("quarantine by rule", ("", "before", "after", "taken from the splits", "released to them"), rules)
    for split, events in compared.examples.items():
        told = [(kind, json.dumps(row, ensure_ascii=False)) for kind, found in events.items() for row in found]
        table(f"examples in {split}", ("", "row"), told)
    numbers = [(name, *map(_show, number.model_dump().values())) for name, number in compared.metrics.items()]
    table("numbers of the reports", ("", "before", "after", "difference"), numbers)


def _show(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
