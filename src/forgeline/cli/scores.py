"""How `evaluate` shows scores: values, differences, and both by slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forgeline.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forgeline.config.schema import Evaluate
    from forgeline.evaluation import Report
    from forgeline.evaluation.bootstrap import Difference, Estimate
    from forgeline.evaluation.slices import Slices


def plain(
    model: str, report: Report, against: str | None, differences: Mapping[str, Difference], parts: Slices | None
) -> dict[str, Any]:
    """Return the scores ready for JSON."""
    found: dict[str, Any] = {"model": model, "metrics": _plain(report.metrics)}
    found |= {"not_measured": report.not_measured, "against": against, "differences": _plain(differences)}
    if parts:
        estimates = {part: _plain(values) for part, values in parts.estimates.items()}
        found |= {"by": parts.by, "slices": estimates, "too_few": parts.too_few}
    return found


def show(
    model: str,
    report: Report,
    against: str | None,
    differences: Mapping[str, Difference],
    parts: Slices | None,
    settings: Evaluate,
) -> None:
    """Print the scores for a person."""
    title = f"{model} on {len(report.rows)} test prompts [{settings.confidence:.0%} interval]"
    headings = ["metric", "value"]
    if against:
        headings += [f"against {against}", "p", f"detectable ({settings.power:.0%} power)"]
    rows = [(name, estimate, *_difference(differences.get(name))) for name, estimate in report.metrics.items()]
    table(title, headings, rows if against else [row[:2] for row in rows])
    for name, why in report.not_measured.items():
        print(f"{name} was not measured: {why}")
    if parts:
        _show_slices(parts, against, settings)


def _show_slices(parts: Slices, against: str | None, settings: Evaluate) -> None:
    metrics = list(next(iter(parts.estimates.values()), {}))
    rows = [
        (part, next(iter(values.values())).n, *(_cell(values[name]) for name in metrics))
        for part, values in parts.estimates.items()
    ]
    rows += [(part, count, *["too few"] * len(metrics)) for part, count in parts.too_few.items()]
    what = f"differences to {against}, p adjusted (Holm)" if against else "values"
    title = f"{what} by {parts.by} [intervals hold together at {settings.confidence:.0%}]"
    table(title, (parts.by, "n", *metrics), rows)


def _difference(found: Difference | None) -> tuple[object, str, str]:
    return ("", "", "") if found is None else (found, f"{found.p:.3g}", f"{found.detectable:.2f}")


def _cell(found: Estimate) -> str:
    p = getattr(found, "p", None)
    return str(found) if p is None else f"{found} p={p:.3g}"


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.model_dump() for name, estimate in estimates.items()}
