"""`forgeline data dry-run`: what the rules would do."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from forgeline.cli.options import Json


def dry_run(
    rows: Annotated[int, typer.Option("--rows", "-n", help="Examples shown of each rule.", min=0)] = 2,
    as_json: Json = False,
) -> None:
    """Say what each rule of `clean` would remove from the raw rows in hand, with examples, and change nothing."""
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load
    from forgeline.data.card.examples import examples
    from forgeline.data.clean import clean_into
    from forgeline.data.layout import CACHE, KEPT

    config = load()
    cache = config.root / CACHE
    cache.mkdir(parents=True, exist_ok=True)
    with reserved(as_json), tempfile.TemporaryDirectory(dir=cache) as folder:
        report = clean_into((Path(folder) / KEPT).parent, config.root, config.data)
        shown = examples(Path(folder), rows)
    if as_json:
        emit({**report, "examples": shown})
        return
    counts = [*report["rows"].items(), *report["reasons"].items()]
    counts += [(f"{name} duplicate", count) for name, count in report["duplicates"].items()]
    counts += [(f"{name} (dry)", count) for name, count in report["dry"].items()]
    table("what cleaning would do", ("rows", "count"), counts)
    for rule, removed in shown.items():
        table(rule, tuple(removed[0]), [tuple(one.values()) for one in removed])
