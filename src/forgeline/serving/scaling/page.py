"""A simulation as one page: what was asked, what the fleet did, how long requests took, what it cost."""

from __future__ import annotations

import os
from pathlib import Path

from forgeline.config.schema.serve.scaling import Scaling
from forgeline.page import blocks, html
from forgeline.page.blocks import Cell, Chart, Code, Curves, Number, Prose, Section, Series
from forgeline.serving.scaling.service import Service
from forgeline.serving.scaling.simulate import Outcome

LONG = 1800.0  # seconds; what lasts longer is shown by the minute
METHODS = {
    "each request": "Every request was followed on its way (a simulation of discrete events).",
    "flow": "Shares of the replicas were followed in place of each request (the mean-field limit of many replicas).",
}


def write(outcome: Outcome, scaling: Scaling, service: Service, machine: str, currency: str, path: Path) -> Path:
    """Write the page, whole or not at all; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(render(outcome, scaling, service, machine, currency), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(outcome: Outcome, scaling: Scaling, service: Service, machine: str, currency: str) -> str:
    """Return the page as HTML."""
    sections = [
        _glance(outcome, machine, currency),
        _time(outcome),
        _latency(outcome),
        _given(scaling, service, machine),
    ]
    return html.render(f"{scaling.min_replicas} to {scaling.max_replicas} replicas on {machine}", sections)


def _glance(outcome: Outcome, machine: str, currency: str) -> Section:
    figures = [
        ("requests", blocks.count(round(outcome.requests))),
        ("p95 to the first token", seconds(outcome.first.p95)),
        ("refused", f"{outcome.refused:.2%}"),
        ("replicas that answer, mean", f"{outcome.mean_ready:.2f}"),
        (f"hours of {machine}", f"{outcome.machine_hours:,.1f}"),
        (f"cost in {currency}", f"{outcome.cost:,.2f}"),
    ]
    words = f"{METHODS[outcome.method]} It lasted {outcome.hours:,.1f} hours, behind {outcome.gateways} gateways."
    lost = f" {outcome.lost:,.0f} replicas were taken away." if outcome.lost else ""
    return Section("At a glance", [blocks.Figures(figures), Prose(words + lost)])


def _time(outcome: Outcome) -> Section:
    long = len(outcome.ready) * outcome.every > LONG
    unit = "minutes" if long else "seconds"

    def points(values: list[float]) -> list[tuple[int, float]]:
        return [(round(step * outcome.every / (60 if long else 1)), value) for step, value in enumerate(values)]

    replicas = [
        Series("answering", "plain", points(outcome.ready)),
        Series("paid for", "lost", points(outcome.paid)),
    ]
    charts = [
        Curves("Replicas", unit, replicas),
        Curves("Requests a second", unit, [Series("asked", "plain", points(outcome.asked))]),
        Curves("Requests that wait or are answered", unit, [Series("ongoing", "plain", points(outcome.ongoing))]),
    ]
    caption = f"Means of {outcome.every:g} s. Paid for are also replicas that start, or end what they have begun."
    return Section("Over time", [Chart("", caption, charts)])


def _latency(outcome: Outcome) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (name, *(Number(seconds(value)) for value in (found.p50, found.p95, found.p99)))
        for name, found in (("first token", outcome.first), ("whole reply", outcome.whole))
    ]
    refused: list[tuple[Cell, ...]] = [
        ("the queue was full (429)", Number(f"{outcome.queue_full:,.0f}")),
        ("no turn came in time (503)", Number(f"{outcome.queue_timeout:,.0f}")),
    ]
    return Section(
        "How long it took",
        [blocks.Table(("", "half", "95 %", "99 %"), rows), blocks.Table(("refused because", "requests"), refused)],
    )


def _given(scaling: Scaling, service: Service, machine: str) -> Section:
    paces: list[tuple[Cell, ...]] = [
        (level, Number(seconds(first)), Number(f"{1000 * token:.1f} ms"))
        for level, first, token in zip(service.at_once, service.first, service.token, strict=True)
    ]
    keys: list[tuple[Cell, ...]] = [(Code(key), Code(str(value))) for key, value in scaling.model_dump().items()]
    words = f"A replica on {machine} answers {service.slots} requests at once and takes {service.start:g} s to start."
    return Section(
        "What was given",
        [
            Prose(words),
            blocks.Table(("at once", "first token", "each further token"), paces),
            blocks.Table(("serve.scaling", ""), keys),
        ],
    )


def seconds(value: float | None) -> str:
    """Return a time with as many digits as matter."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if value < 10 else f"{value:,.0f} s"
