"""The evaluation report: one page with scores, differences, groups, lengths, and replies with their differences."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forgeline.config.schema import Evaluate
from forgeline.evaluation import examples
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.compare import difference
from forgeline.evaluation.metrics import CorpusMetric, create
from forgeline.evaluation.report import Report
from forgeline.evaluation.slices import Slices, slice_differences, slices
from forgeline.page import blocks, html
from forgeline.page.blocks import Cell, Chart, Code, Number, Points, Prose, Section

MOST = 16  # groups of a kind, the largest
BINS = 24
BETTER = {"higher": "higher is better", "lower": "lower is better", None: "neither way is better"}


def write(report: Report, others: Sequence[Report], path: Path, config: Evaluate, seed: int) -> Path:
    """Write the page of a report beside others of the same test prompts, whole or not at all; return its path.

    Raises:
        EvaluationError: if another report is of other prompts, or of other settings of a metric.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(render(report, others, config, seed), encoding="utf-8")
    os.replace(partial, path)
    return path


def render(report: Report, others: Sequence[Report], config: Evaluate, seed: int) -> str:
    """Return the page as HTML."""
    metrics = create(report.settings)
    lead = next((name for name in metrics if metrics[name].better), None) if report.rows else None
    sections = [_glance(report), _scores(report, others, metrics)]
    if others and lead:
        sections.append(_differences(report, others, metrics, config, seed))
    if lead:
        metric, like = metrics[lead], [other for other in others if lead in other.statistics]
        sections += [*_groups(report, like, lead, config, seed), _lengths([report, *others])]
        sections += [examples.extremes(report, lead, metric)]
        sections += [examples.beside(report, other, lead, metric) for other in like]
    return html.render(f"Evaluation of {report.model}", [*sections, _origin(report, others)])


def _glance(report: Report) -> Section:
    figures = [(name, f"{estimate.value:.2f}") for name, estimate in report.metrics.items()]
    words = "Greedy replies to the frozen test prompts. An interval says between which values the score would lie for "
    words += "most other samples of such prompts; it does not say how other prompts would do."
    return Section(
        "At a glance",
        [
            blocks.Figures([("test prompts", blocks.count(len(report.rows))), *figures]),
            Prose(words),
            *([Points([f"{name}: {why}" for name, why in report.not_measured.items()])] if report.not_measured else []),
        ],
    )


def _scores(report: Report, others: Sequence[Report], metrics: dict[str, CorpusMetric]) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (
            Code(name),
            *(_shown(one.metrics.get(name)) for one in (report, *others)),
            BETTER[metrics[name].better],
        )
        for name in report.metrics
    ]
    charts = [
        blocks.Intervals(
            _titled(name, metrics),
            "",
            [
                (one.model, estimate.low, estimate.value, estimate.high, one is report)
                for one in (report, *others)
                if (estimate := one.metrics.get(name))
            ],
        )
        for name in report.metrics
    ]
    table = blocks.Table(("metric", report.model, *(other.model for other in others), ""), rows)
    sure = f"{next(iter(report.metrics.values())).confidence:.0%} intervals" if report.metrics else ""
    return Section("Scores", [table, *([Chart("", f"Values with their {sure}.", charts)] if others else [])])


def _differences(
    report: Report, others: Sequence[Report], metrics: dict[str, CorpusMetric], config: Evaluate, seed: int
) -> Section:
    found = [(other, difference(report, other, config, seed)) for other in others]
    charts = [
        blocks.Intervals(
            _titled(name, metrics),
            "",
            [
                (f"against {other.model}", *_ends(each[name]), _sure(each[name]))
                for other, each in found
                if name in each
            ],
        )
        for name in metrics
    ]
    caption = "This model minus the other, prompt by prompt. Faint: the interval holds nought, so it may be chance."
    return Section("Differences", [Chart("", caption, [chart for chart in charts if chart.rows])])


def _groups(report: Report, others: Sequence[Report], lead: str, config: Evaluate, seed: int) -> list[Section]:
    """Return a section for each kind of slice: how each is served, and whether better than by the first other."""
    sections = []
    for by in [*sorted({kind for row in report.rows for kind in row.groups}), "length"]:
        found = slices(report, by, config, seed, only=[lead])
        if not found.estimates:
            continue
        charts = [_by_slice(lead, found, report.metrics[lead])]
        for other in others[:1]:
            apart = slice_differences(report, other, by, config, seed, only=[lead])
            charts.append(_by_slice(f"{lead} less that of {other.model}", apart, None))
        caption = f"In brackets: prompts. The intervals of a chart hold together at {config.confidence:.0%}. Faint: an "
        caption += "interval overlaps that of all prompts, or holds nought."
        left = len(found.too_few) + max(0, len(found.estimates) - MOST)
        caption += f" {left} smaller groups are not shown." if left else ""
        sections.append(Section(f"By {by}", [Chart("", caption, charts)]))
    return sections


def _by_slice(title: str, found: Slices, whole: Estimate | None) -> blocks.Intervals:
    """Return a chart of slices, of values beside that of all prompts, or of differences."""
    rows = [("all", *_ends(whole), True)] if whole else []
    for part, values in list(found.estimates.items())[:MOST]:
        [estimate] = values.values()
        apart = estimate.low > whole.high or estimate.high < whole.low if whole else _sure(estimate)
        rows.append((f"{part} ({estimate.n})", *_ends(estimate), apart))
    return blocks.Intervals(title, "", rows)


def _lengths(reports: Sequence[Report]) -> Section:
    """Return how long the replies are beside what people wrote, on one scale."""
    texts = {one.model: [len(row.reply.split()) for row in one.rows] for one in reports}
    texts["what people wrote"] = [len(text.split()) for row in reports[0].rows for text in row.references]
    texts = {name: words for name, words in texts.items() if words}
    longest = max(float(np.quantile(words, 0.99)) for words in texts.values())
    width = max(1, math.ceil((longest + 1) / BINS))
    bins = math.ceil((longest + 1) / width)
    charts = []
    for name, words in texts.items():
        counts = np.bincount(np.minimum(np.array(words) // width, bins), minlength=bins + 1) / len(words)
        charts.append(blocks.Histogram(name, "words", width, counts[:bins].tolist(), float(counts[bins])))
    return Section("Length of replies", [Chart("", "Words of each reply, and of each reference.", charts)])


def _origin(report: Report, others: Sequence[Report]) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (one.model, one.at, Number(f"{sum(one.seconds.values()):.1f} s"), Code(one.vocabulary[:12]))
        for one in (report, *others)
    ]
    facts: list[tuple[Cell, ...]] = [
        ("test prompts", Code(report.test_digest)),
        ("BLEU", Code(report.signature)),
        *((f"options of {name}", Code(options)) for name, options in report.settings.items() if options),
    ]
    return Section(
        "How it was measured",
        [blocks.Table(("model", "scored", "took", "tokens' digest"), rows), blocks.Table(("what", ""), facts)],
    )


def _titled(name: str, metrics: dict[str, CorpusMetric]) -> str:
    return f"{name}, {BETTER[metrics[name].better]}"


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.low, estimate.value, estimate.high


def _sure(estimate: Estimate) -> bool:
    return not estimate.low <= 0 <= estimate.high


def _shown(estimate: Estimate | None) -> Number:
    return Number(str(estimate) if estimate else "–")
