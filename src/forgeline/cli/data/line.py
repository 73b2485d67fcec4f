"""`forgeline data` without a verb: run the stages that changed."""

from __future__ import annotations

import typer

from forgeline.cli.options import Json


def data(context: typer.Context, as_json: Json = False) -> None:
    """Bring the dataset version up to date: fetch, clean, assess, split; only what changed runs."""
    if context.invoked_subcommand:
        return
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load
    from forgeline.data.versions import prepare

    config = load()
    environment.enter(config.root)
    with reserved(as_json):
        version = prepare(config.root)
    if as_json:
        emit(version.model_dump(mode="json"))
    else:
        table(f"dataset version {version.digest[:12]}", ("rows", "count"), version.counts.items())
        print(f"data card: {version.paths['card']}")
