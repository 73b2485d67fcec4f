"""The comparison of approaches as one page: what is recommended, what each scored and takes, and how each was asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from forgeline.evaluation.approaches import Comparison, Outcome
from forgeline.evaluation.report import Report
from forgeline.page import html
from forgeline.page.blocks import (
    Cell,
    Chart,
    Code,
    Example,
    Examples,
    Figures,
    Intervals,
    Number,
    Points,
    Section,
    Table,
)

TITLE = "Which approach?"
SHOWN = 5  # prompts whose replies stand side by side


def write(path: Path, comparison: Comparison, reports: Mapping[str, Report], metric: str) -> Path:
    """Write the page and return its path.

    Args:
        path: of the page.
        comparison: the outcomes and the recommendation.
        reports: each approach's evaluation.
        metric: what approaches are chosen by.
    """
    sections = [
        Section("Recommendation", [Points([comparison.recommendation.reason]), _figures(comparison, metric)]),
        Section("Quality", [_chart(comparison, metric), _quality(comparison)]),
        Section("What a reply takes", [_spent(comparison)]),
        Section("How they are set up", [_setup(comparison)]),
        Section("What the model reads", [Examples("For the first test prompt", _asked(comparison))]),
        Section("Replies", [Examples(f"To the first {SHOWN} test prompts", _replies(reports))]),
    ]
    partial = path.with_suffix(".part")
    partial.write_text(html.render(TITLE, sections), encoding="utf-8")
    os.replace(partial, path)
    return path


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the headings of the table that the command prints."""
    return ("approach", *_metrics(comparison), "prompt tokens", "reply tokens", "s, median", "s, p95", "1,000 replies")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row of that table for each approach."""
    return [
        (
            one.approach.name,
            *(str(one.metrics[name]) if name in one.metrics else "–" for name in _metrics(comparison)),
            *_numbers(one),
        )
        for one in comparison.outcomes
    ]


def _figures(comparison: Comparison, metric: str) -> Figures:
    chosen = next((one for one in comparison.outcomes if one.approach.name == comparison.recommendation.approach), None)
    if chosen is None:
        return Figures([("recommended", "none")])
    return Figures(
        [
            ("recommended", chosen.approach.name),
            (metric, str(chosen.metrics[metric])),
            ("tokens a reply", f"{chosen.spent('tokens'):,.0f}"),
            ("seconds, 95 of 100 replies", f"{chosen.taken.latency_p95:.2f}"),
        ]
    )


def _chart(comparison: Comparison, metric: str) -> Chart:
    chosen = comparison.recommendation.approach
    bars = [(one.approach.name, one.metrics[metric], one.approach.name == chosen) for one in comparison.outcomes]
    drawn = Intervals(metric, metric, [(name, each.low, each.value, each.high, sure) for name, each, sure in bars])
    caption = (
        f"On the same {comparison.test_prompts} frozen test prompts, with intervals; the recommended one in colour."
    )
    return Chart("", caption, [drawn])


def _quality(comparison: Comparison) -> Table:
    differences = comparison.recommendation.differences
    names = _metrics(comparison)
    found: list[tuple[Cell, ...]] = [
        (
            Code(one.approach.name),
            *(Number(one.metrics[name]) if name in one.metrics else Number("–") for name in names),
            Number(differences.get(one.approach.name, "–")),
        )
        for one in comparison.outcomes
    ]
    return Table(("approach", *names, "to the best"), found)


def _spent(comparison: Comparison) -> Table:
    found: list[tuple[Cell, ...]] = [
        (Code(one.approach.name), *map(Number, _numbers(one)), Number(f"{one.tuning_seconds / 60:.1f}"))
        for one in comparison.outcomes
    ]
    heads = ("approach", "prompt tokens", "reply tokens", "s, median", "s, p95", "1,000 replies", "minutes of tuning")
    return Table(heads, found)


def _setup(comparison: Comparison) -> Table:
    found: list[tuple[Cell, ...]] = [
        (
            Code(one.name),
            one.model,
            Code(one.prompt_version),
            one.examples,
            one.facts,
            one.retriever if one.looks_up else "",
        )
        for one in (outcome.approach for outcome in comparison.outcomes)
    ]
    return Table(("approach", "model", "prompt", "examples", "facts", "retriever"), found)


def _asked(comparison: Comparison) -> list[Example]:
    return [
        Example(one.approach.name, [(turn["role"], turn["content"]) for turn in one.asked])
        for one in comparison.outcomes
    ]


def _replies(reports: Mapping[str, Report]) -> list[Example]:
    first = next(iter(reports.values()))
    return [
        Example(
            row.prompt,
            [("people", row.references[0]), *((name, report.rows[place].reply) for name, report in reports.items())],
        )
        for place, row in enumerate(first.rows[:SHOWN])
    ]


def _metrics(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(name for one in comparison.outcomes for name in one.metrics))


def _numbers(one: Outcome) -> tuple[str, ...]:
    return (
        f"{one.taken.prompt_tokens:.0f}",
        f"{one.taken.reply_tokens:.0f}",
        f"{one.taken.latency_p50:.2f}",
        f"{one.taken.latency_p95:.2f}",
        f"{one.money:.4f} {one.currency}",
    )
