"""`sweep`: search for better training settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from forgeline.cli.options import Json, Profile, Set


def sweep(profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """Try the training settings of configs/sweep.yaml and say which have the lowest validation loss.

    Interrupted, the same command goes on; with more trials, too.
    """
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project(profile, set_)
    with reserved(as_json):
        from pipelines.sweep import sweep as pipeline

        searched = pipeline(config=config).steps["search"].output.load()
    command = winner(profile, set_ or (), searched.trials[0].values)
    if as_json:
        trials = [trial.model_dump(mode="json") for trial in searched.trials]
        emit({"trials": trials, "mlflow_run": searched.run_id, "command": command})
        return
    keys = list(config.sweep.space)
    rows = [
        (
            trial.number,
            *(trial.values[key] for key in keys),
            f"{trial.loss:.4f}" if trial.tuned else "",
            f"{trial.tuned.seconds / 60:.1f}" if trial.tuned else "",
            f"failed: {trial.reason}" if trial.reason else trial.state,
        )
        for trial in searched.trials
    ]
    headings = ("trial", *(key.removeprefix("train.") for key in keys), "validation loss", "minutes", "state")
    table(f"{len(rows)} trials, best first", headings, rows)
    print(f"\nexperiments: mlflow ui\nthe winner:  {command}")


def winner(profile: str | None, overrides: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return the command that trains with a trial's values, and with what the sweep was told beside them."""
    words = ["forgeline", "train", *(["--profile", profile] if profile else [])]
    kept = [text for text in overrides if text.partition("=")[0].strip() not in values]
    kept = [text for text in kept if not text.startswith("sweep.")]
    for text in [*kept, *(f"{key}={_written(value)}" for key, value in values.items())]:
        words += ["--set", text]
    return shlex.join(words)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
