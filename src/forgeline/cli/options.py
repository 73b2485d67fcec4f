"""The options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

REFUSED = 4  # the exit code where a gate does not pass

Profile = Annotated[str | None, typer.Option("--profile", help="An overlay from configs/profiles/.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set train.epochs=2.")]
Stack = Annotated[
    str | None, typer.Option("--stack", help="Train there: a registered stack of configs/stacks/ (forgeline stack).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes into the ledger.")]
