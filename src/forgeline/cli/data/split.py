"""`forgeline data freeze`: today's test keys are test keys for good."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json

Why = Annotated[str | None, typer.Option("--reason", help="Why; it goes into the ledger.")]


def freeze(reason: Why = None, as_json: Json = False) -> None:
    """Freeze the test set: whatever data, seed, strategy or shares come, its keys stay test keys."""
    from forgeline.cli.output import emit
    from forgeline.config import load
    from forgeline.data.layout import FROZEN
    from forgeline.data.splits.frozen import freeze as freeze_keys
    from forgeline.ledger import Ledger

    config = load()
    keys, added = freeze_keys(config.root)
    if added:
        book = Ledger(config.root / config.project.stores.ledger)
        book.append("test set frozen", keys=keys, added=added, reason=reason)
    if as_json:
        emit({"keys": keys, "added": added, "file": FROZEN})
    else:
        print(f"{keys:,} keys are frozen, {added:,} of them new: commit {FROZEN} to git")
