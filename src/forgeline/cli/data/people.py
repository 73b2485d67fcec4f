"""`forgeline data export|import`: rows to people and their decisions back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from forgeline.cli.options import Json

What = Annotated[Literal["sample", "quarantine"], typer.Option("--what", help="Rows of a split, or removed rows.")]
Form = Annotated[Literal["label-studio", "argilla", "csv"], typer.Option("--format", help="What reads the file.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only rows that this rule removed.")]
Split = Annotated[Literal["train", "validation", "test"], typer.Option("--split", help="The split that is sampled.")]
Count = Annotated[int, typer.Option("-n", "--count", min=1, help="At most so many rows.")]
Seed = Annotated[int, typer.Option("--seed", help="Another seed chooses other rows.")]
Who = Annotated[str, typer.Option("--who", help="Who decided, where the file does not say.")]


def export(
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    what: What,
    form: Form,
    rule: Rule = None,
    split: Split = "train",
    count: Count = 100,
    seed: Seed = 17,
) -> None:
    """Write rows for people to judge: keep, drop or edit."""
    from forgeline.config.load import find_root
    from forgeline.data import review
    from forgeline.errors import DataError

    root = find_root()
    if rule and what == "sample":
        raise DataError("--rule goes with --what quarantine: rows of a split were removed by none.")
    items = review.sample(root, split, count, seed) if what == "sample" else review.quarantined(root, rule, count, seed)
    files = review.export(out, items, form)
    print(f"{len(items)} rows: {', '.join(map(str, files))}")


def import_(
    file: Annotated[Path, typer.Argument(help="Label Studio's JSON export, Argilla's records, or the filled CSV.")],
    who: Who,
    as_json: Json = False,
) -> None:
    """Take in what people decided; the next `forgeline data` heeds it."""
    from datetime import UTC, datetime

    from forgeline.cli.output import emit, table
    from forgeline.config.load import find_root
    from forgeline.data import review

    outcome = review.take_in(find_root(), review.read(file, who), datetime.now(UTC))
    if as_json:
        emit(
            {
                "new": outcome.new,
                "known": outcome.known,
                "conflicts": {row: [one.model_dump() for one in views] for row, views in outcome.conflicts},
                "agreement": [pair._asdict() for pair in outcome.agreement],
            }
        )
        return
    print(f"{outcome.new} new decisions, {outcome.known} known, {len(outcome.conflicts)} rows in dispute.")
    if outcome.conflicts:
        rows = [(row, *(f"{one.who}: {one.verdict}" for one in views)) for row, views in outcome.conflicts]
        table(
            "in dispute: the newest decision, shown first, holds",
            ("row", "decisions"),
            ((row, ", ".join(views)) for row, *views in rows),
        )
    if outcome.agreement:
        pairs = [
            (
                f"{one.first}, {one.second}",
                one.rows,
                f"{one.agreed:.0%} ({one.low:.0%} to {one.high:.0%})",
                "-" if one.kappa is None else f"{one.kappa:.2f}",
            )
            for one in outcome.agreement
        ]
        table("agreement on the rows that two people judged", ("people", "rows", "agreed", "Cohen's kappa"), pairs)
