"""`runs`: the training runs side by side, by what they reached and what they cost."""

from __future__ import annotations

from forgeline.cli.options import Json


def runs(as_json: Json = False) -> None:
    """List the training runs, oldest first: losses, scores, speed, time, energy, memory and money."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project()
    with reserved(as_json):
        from forgeline.registry import tracking

        found = tracking.training_runs(config.project)
    if as_json:
        emit([run.model_dump() for run in found])
        return
    headings = ("run", "started", "status", "loss", "BLEU", "tokens/s", "minutes", "kWh", "GB", "money", "machine")
    rows = [
        (
            run.name,
            run.started,
            run.status,
            _number(run.validation_loss, ".3f"),
            _number(run.bleu, ".1f"),
            _number(run.tokens_per_second, ",.0f"),
            _number(run.minutes, ".1f"),
            _number(run.kwh, ".4f"),
            _number(run.peak_memory_gb, ".1f"),
            f"{_number(run.money, '.4f')} {run.currency or ''}".rstrip(),
            run.machine or "–",
        )
        for run in found
    ]
    table("training runs", headings, rows)


def _number(value: float | None, form: str) -> str:
    """Return a number as people read it; a dash where nothing was measured."""
    return "–" if value is None else f"{value:{form}}"
