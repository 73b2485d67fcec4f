"""`forgeline data`: bring the data up to date, and look at them from every side."""

from __future__ import annotations

from collections.abc import Callable

import typer

from forgeline.cli.data import clean, erasure, ingest, line, people, personal, split, subjects, versions

app = typer.Typer(
    help="Bring the dataset version up to date: fetch, clean, assess, split; only what changed runs.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(line.data)
VERBS: tuple[Callable[..., None], ...] = (
    *(ingest.preview, clean.dry_run),
    *(versions.log, versions.diff, versions.rollback, versions.plots),
    *(personal.pii, erasure.forget, subjects.find_subject),
    *(people.export, people.import_),
    split.freeze,
)
for verb in VERBS:
    app.command(verb.__name__.strip("_").replace("_", "-"))(verb)
