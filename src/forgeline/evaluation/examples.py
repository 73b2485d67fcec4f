"""The replies that say most of a model: its worst and best, and where two models lie furthest apart."""

from __future__ import annotations

import numpy as np

from forgeline.evaluation.metrics import CorpusMetric, Table
from forgeline.evaluation.report import Report, Row
from forgeline.page.blocks import Example, Examples, Marked, Prose, Section
from forgeline.page.marks import compare, likeness

SHOWN = 6  # of a kind
EMPTY = "(empty)"


def extremes(report: Report, lead: str, metric: CorpusMetric) -> Section:
    """Return the replies with the worst and the best score of their own."""
    scores = each_score(metric, report.statistics[lead])
    worst_first = _order(scores if metric.better == "higher" else -scores)
    worst, best = worst_first[:SHOWN], worst_first[: SHOWN - 1 : -1][:SHOWN]

    def example(place: int) -> Example:
        row = report.rows[place]
        closest = max(row.references, key=lambda text: likeness(row.reply, text), default="")
        reply = compare(row.reply, closest) if row.reply.strip() else EMPTY
        texts: list[tuple[str, str | Marked]] = [("asked", row.prompt), ("reply", reply), ("reference", closest)]
        return Example(_heading(row, lead, scores[place]), texts)

    words = "By the score of the single reply. Marked in it: words that the closest reference does not have, and, "
    words += "struck out, those of the reference that are missing."
    return Section(
        "Worst and best",
        [
            Prose(words),
            Examples("Worst", [example(place) for place in worst]),
            *([Examples("Best", [example(place) for place in best])] if best else []),
        ],
    )


def beside(report: Report, other: Report, lead: str, metric: CorpusMetric) -> Section:
    """Return where two models' replies differ most in score, either way, side by side."""
    mine, theirs = each_score(metric, report.statistics[lead]), each_score(metric, other.statistics[lead])
    gains = (mine - theirs) * (1 if metric.better == "higher" else -1)
    order = _order(-gains)

    def example(place: int) -> Example:
        row, reply = report.rows[place], other.rows[place].reply
        parts = compare(row.reply, reply).parts
        left, right = ([part for part in parts if part[0] != hidden] for hidden in ("added", "removed"))
        heading = _heading(row, lead, mine[place]) + f", {other.model} {theirs[place]:.1f}"
        said = [(one.model, Marked(parts) if parts else EMPTY) for one, parts in ((other, left), (report, right))]
        return Example(heading, [("asked", row.prompt), *said])

    kinds = {
        f"{report.model} scores higher": [place for place in order[:SHOWN] if gains[place] > 0],
        f"{other.model} scores higher": [place for place in order[::-1][:SHOWN] if gains[place] < 0],
    }
    words = "The replies whose scores lie furthest apart. Marked: what only one of the two says."
    return Section(
        f"Beside {other.model}",
        [
            Prose(words),
            *(Examples(title, [example(place) for place in chosen], True) for title, chosen in kinds.items() if chosen),
        ],
    )


def each_score(metric: CorpusMetric, statistics: list[list[float]]) -> Table:
    """Return the score of each single reply."""
    table = np.array(statistics)
    with np.errstate(invalid="ignore", divide="ignore"):
        return metric.values(table, np.eye(len(table)))


def _order(scores: Table) -> list[int]:
    """Return the places of the replies that have a score, the lowest first."""
    return [int(place) for place in np.argsort(scores, kind="stable") if np.isfinite(scores[place])]


def _heading(row: Row, lead: str, score: float) -> str:
    groups = ", ".join(f"{kind} {name}" for kind, name in row.groups.items())
    return f"{groups}{': ' if groups else ''}{lead} {score:.1f}"
