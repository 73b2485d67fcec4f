"""All registered versions by what they scored, and never one beside another that answered other prompts."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

from pydantic import BaseModel, computed_field

from forgeline.config.schema import Config
from forgeline.errors import EvaluationError, RegistryError
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.compare import difference
from forgeline.evaluation.metrics import CorpusMetric, create
from forgeline.evaluation.report import Report
from forgeline.lineage import value_digest
from forgeline.page import html
from forgeline.page.blocks import Block, Cell, Chart, Intervals, Number, Points, Prose, Section, Table
from forgeline.registry import tracking, versions

APART = "Versions in different tables were scored on other test prompts, or otherwise, and cannot be compared."


class Standing(BaseModel):
    """A version's place: what it scored, how it differs from the best of its table, and what it cost.

    `behind` is its difference from the best in the ranking metric, None for the best itself.
    """

    version: int
    aliases: list[str]
    at: str
    data_digest: str
    metrics: dict[str, Estimate]
    behind: Estimate | None
    minutes: float | None
    kwh: float | None
    money: float | None
    currency: str | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def place(self) -> Literal["best", "level", "behind"]:
        """Whether it is the best, not beyond noise behind it, or behind."""
        if self.behind is None:
            return "best"
        return "level" if self.behind.low <= 0 <= self.behind.high else "behind"


class Board(BaseModel):
    """Versions that can be compared, the best first."""

    test_digest: str
    prompts: int
    metric: str
    better: str
    standings: list[Standing]


class Leaderboard(BaseModel):
    """Tables of comparable versions, that of the newest version first, and why the other versions have no place."""

    boards: list[Board]
    unranked: dict[int, str]


def leaderboard(config: Config) -> Leaderboard:
    """Return the registered versions, ranked by the project's first success metric that any of them has."""
    reports: dict[int, Report] = {}
    unranked: dict[int, str] = {}
    known = {version.number: version for version in reversed(versions.versions(config.project))}
    for number, version in known.items():
        try:
            reports[number] = versions.report(config.project, version)
        except (EvaluationError, RegistryError) as error:
            unranked[number] = str(error)
    wanted = [*config.project.success, *config.evaluate.metrics]
    name = next((each for each in wanted if any(each in report.metrics for report in reports.values())), wanted[0])
    comparable: dict[str, list[int]] = defaultdict(list)
    for number, report in reports.items():
        if name in report.metrics:
            comparable[_conditions(report, name)].append(number)
        else:
            unranked[number] = f"it was not scored by {name}: {report.not_measured.get(name, 'evaluate it again')}"
    costs = {run.run_id: run for run in tracking.training_runs(config.project)}
    return Leaderboard(
        boards=[
            _board(config, name, [(known[number], reports[number]) for number in numbers], costs)
            for numbers in comparable.values()
        ],
        unranked=unranked,
    )


def page(found: Leaderboard) -> str:
    """Return the leaderboard as one HTML page."""
    sections = [_section(board, number, len(found.boards)) for number, board in enumerate(found.boards, start=1)]
    if found.unranked:
        sentences = [f"Version {number}: {why}" for number, why in found.unranked.items()]
        sections.append(Section("Without a place", [Points(sentences)]))
    return html.render("Leaderboard", sections)


def headings(board: Board) -> tuple[str, ...]:
    """Return the names of the columns of `row`."""
    return ("version", "place", board.metric, "behind", "minutes", "money", "scored", "data")


def row(standing: Standing, board: Board) -> tuple[str, ...]:
    """Return what a table shows of a standing; `others` holds the scores beside it."""
    return (
        _name(standing),
        standing.place,
        str(standing.metrics[board.metric]),
        str(standing.behind or "–"),
        _number(standing.minutes, ".1f"),
        f"{_number(standing.money, '.4f')} {standing.currency or ''}".rstrip(),
        standing.at[:10],
        standing.data_digest[:8],
    )


def others(board: Board) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the metrics that do not rank."""
    names = [name for name in board.standings[0].metrics if name != board.metric]
    rows = [(_name(one), *(str(one.metrics.get(name, "–")) for name in names)) for one in board.standings]
    return ("version", *names), rows


def _conditions(report: Report, name: str) -> str:
    """Return what must be the same for two values of a metric to be compared."""
    metric = _metric(report, name)
    return value_digest([report.test_digest, report.settings[name], report.vocabulary if metric.by_token else ""])


def _metric(report: Report, name: str) -> CorpusMetric:
    return create({name: report.settings[name]})[name]


def _board(
    config: Config,
    name: str,
    entries: list[tuple[versions.Version, Report]],
    costs: dict[str, tracking.TrainingRun],
) -> Board:
    metric = _metric(entries[0][1], name)
    entries = sorted(entries, key=lambda entry: entry[1].metrics[name].value, reverse=metric.better != "lower")
    best = entries[0][1]
    return Board(
        test_digest=best.test_digest,
        prompts=len(best.rows),
        metric=name,
        better=metric.better or "",
        standings=[
            _standing(version, report, None if report is best else _behind(config, name, report, best), costs)
            for version, report in entries
        ],
    )


def _behind(config: Config, name: str, report: Report, best: Report) -> Estimate:
    """Return how a report differs from the best in the one metric."""
    alone = {"settings": {name: report.settings[name]}}
    mine, theirs = report.model_copy(update=alone), best.model_copy(update=alone)
    return difference(mine, theirs, config.evaluate, config.project.seed)[name]


def _standing(
    version: versions.Version, report: Report, behind: Estimate | None, costs: dict[str, tracking.TrainingRun]
) -> Standing:
    cost = costs.get(version.run_id)
    return Standing(
        version=version.number,
        aliases=version.aliases,
        at=report.at,
        data_digest=version.lineage.data_digest,
        metrics=report.metrics,
        behind=behind,
        minutes=cost.minutes if cost else None,
        kwh=cost.kwh if cost else None,
        money=cost.money if cost else None,
        currency=cost.currency if cost else None,
    )


def _section(board: Board, number: int, of: int) -> Section:
    bars = []
    for one in board.standings:
        found = one.metrics[board.metric]
        bars.append((f"version {_name(one)}", found.low, found.value, found.high, one.place != "behind"))
    title = f"{board.metric}, {board.better} is better" if board.better else board.metric
    caption = (
        f"{board.prompts} test prompts. Faint: behind the best by more than chance explains, by the paired interval of "
        "the difference; the two versions' own intervals may overlap all the same."
    )
    ranked: list[tuple[Cell, ...]] = [
        tuple(Number(cell) if place >= 2 else cell for place, cell in enumerate(row(one, board)))
        for one in board.standings
    ]
    names, rows = others(board)
    blocks: list[Block] = [
        Prose(f"The test prompts `{board.test_digest[:12]}`. {APART if of > 1 else ''}"),
        Chart("", caption, [Intervals(title, "", bars)]),
        Table(headings(board), ranked),
        *([Table(names, [(version, *map(Number, rest)) for version, *rest in rows])] if len(names) > 1 else []),
    ]
    return Section("Newest test prompts" if number == 1 else f"Older test prompts {number - 1}", blocks)


def _name(standing: Standing) -> str:
    return " ".join([str(standing.version), *standing.aliases])


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
