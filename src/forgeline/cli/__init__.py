"""The `forgeline` command. Every verb imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import typer

from forgeline.cli import (
    approve,
    compare,
    data,
    decisions,
    gate,
    guards,
    key,
    leaderboard,
    line,
    live,
    models,
    optimise,
    probe,
    project,
    rollout,
    runs,
    scaling,
    sheet,
    stack,
    supply,
    sweep,
)
from forgeline.errors import ForgelineError

app = typer.Typer(
    name="forgeline",
    help="A generative text model from raw data to an accountable production endpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS: tuple[Callable[..., None], ...] = (
    *(project.validate, project.doctor),
    models.models,
    *(line.run, line.train, line.evaluate, probe.probe, compare.compare, sweep.sweep, stack.stack),
    *(runs.runs, leaderboard.leaderboard, gate.gate, approve.approve, decisions.promote, decisions.rollback),
    *(live.deploy, live.chat, live.status, live.stop, guards.guards),
    optimise.optimise,
    *(supply.signing_key, supply.sign, supply.verify, supply.sbom),
    *(scaling.measure, scaling.simulate, scaling.advise),
    *(decisions.lineage, decisions.ledger),
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(data.app, name="data")
app.add_typer(sheet.app, name="sheet")
app.add_typer(key.app, name="key")
app.add_typer(rollout.app, name="rollout")


def main() -> None:
    """Run the command line; an error that a user can mend is one sentence and exit code 1."""
    try:
        app()
    except ForgelineError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"The disk is full{where}: free some space and run the command again; what was done is kept.")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)
