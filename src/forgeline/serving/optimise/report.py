"""The comparison of a bundle's variants: a table for the terminal, and a page with quality against cost."""

from __future__ import annotations

import os
from pathlib import Path

from forgeline.page import blocks, html
from forgeline.page.blocks import Cell, Chart, Code, Number, Points, Prose, Section, Tone
from forgeline.serving.optimise import Comparison, Outcome

TONES: dict[str, Tone] = {"parent": "plain", "admitted": "good", "refused": "lost"}


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the headings of the table."""
    rates = (f"tokens/s of {clients}" for clients in comparison.clients)
    return ("variant", "state", "MB", *rates, "core s", "GB", comparison.metric, "to the bundle")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row of the table for each variant."""
    return [(one.name, one.state, *_figures(comparison, one)) for one in comparison.outcomes]


def reasons(comparison: Comparison) -> list[str]:
    """Return a sentence for each variant that may not serve, or is not there."""
    return [f"{one.name}, {one.state}: {one.why}" for one in comparison.outcomes if one.why]


def write(comparison: Comparison, path: Path) -> Path:
    """Write the page, whole or not at all; return its path."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(html.render(f"Variants of version {comparison.version}", _sections(comparison)), "utf-8")
    os.replace(partial, path)
    return path


def _sections(comparison: Comparison) -> list[Section]:
    metric, most = comparison.metric, max(comparison.clients)
    words = f"Greedy replies to {comparison.test_prompts} frozen test prompts, compared with the bundle's own, prompt "
    words += f"by prompt. Tokens a second, with so many clients at once, are medians of {comparison.rounds} rounds in "
    words += "which the variants took turns on the same prompts, each in processes of its own. Core seconds are of "
    words += f"1,000 tokens to {most} clients: they say more where other work shared the machine. Memory is the peak."
    table: list[tuple[Cell, ...]] = [
        (Code(one.name), one.state, *map(Number, _figures(comparison, one))) for one in comparison.outcomes
    ]
    along = f"core seconds a 1,000 tokens, {most} clients"
    drawn = [
        _against(comparison, f"{metric} and processor time", along, "time"),
        _against(comparison, f"{metric} and size", "MB on disk", "size"),
    ]
    caption = "Green: admitted by policy.admission. Orange: refused. Blue: the bundle. Up and left is better; a line "
    caption += "is the difference's interval."
    origin: list[tuple[Cell, ...]] = [
        (Code(one.name), Code(one.digest[:16]), one.runtime, Code(Path(one.folder).name)) for one in comparison.outcomes
    ]
    return [
        Section("At a glance", [blocks.Figures(_best(comparison)), Prose(words)]),
        Section("Side by side", [blocks.Table(headings(comparison), table), Points(reasons(comparison))]),
        Section("Quality against cost", [Chart("", caption, drawn)]),
        Section("What they are", [blocks.Table(("variant", "digest", "run by", "folder"), origin)]),
    ]


def _best(comparison: Comparison) -> list[tuple[str, str]]:
    most = max(comparison.clients)
    fit = [one for one in comparison.outcomes if one.state == "admitted" and one.cost]
    own = comparison.outcomes[0]
    told = [("variants", str(len(comparison.outcomes) - 1)), ("admitted", str(len(fit)))]
    if fit and own.cost:
        best = max(fit, key=lambda one: one.cost.rate(most) if one.cost else 0)
        assert best.cost is not None  # noqa: S101
        told.append(("fastest admitted", best.name))
        told.append(
            (f"times the bundle's tokens/s, {most} clients", f"{best.cost.rate(most) / own.cost.rate(most):.1f}")
        )
    return told


def _against(comparison: Comparison, title: str, along: str, what: str) -> blocks.Scatter:
    most = max(comparison.clients)
    points = []
    for one in comparison.outcomes:
        if one.cost is None:
            continue
        at = one.bytes / 1e6 if what == "size" else 1000 / one.cost.core_rate(most)
        found = one.difference
        low, value, high = (found.low, found.value, found.high) if found else (0.0, 0.0, 0.0)
        points.append((one.name, at, low, value, high, TONES[one.state]))
    return blocks.Scatter(title, along, f"{comparison.metric}, difference to the bundle", points)


def _figures(comparison: Comparison, one: Outcome) -> tuple[str, ...]:
    cost, most = one.cost, max(comparison.clients)
    return (
        f"{one.bytes / 1e6:,.0f}" if one.bytes else "–",
        *(f"{cost.rate(clients):.0f}" if cost else "–" for clients in comparison.clients),
        f"{1000 / cost.core_rate(most):.1f}" if cost else "–",
        f"{cost.memory / 1e9:.2f}" if cost else "–",
        f"{one.value:.2f}" if one.value is not None else "–",
        str(one.difference) if one.difference else "–",
    )
