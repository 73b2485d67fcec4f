"""Charts as inline SVG: widths in percent and text in pixels, so that they fit a telephone and a page of paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from forgeline.page.blocks import Bars, Curves, Histogram, Intervals, Scatter, Series

HEIGHT = 150  # of a histogram's columns and of curves, in pixels
BUCKETS = 200  # of a long curve: each shows its least and its greatest value
MARKED = 40  # points of a series that are few enough to be marked each
TICKS = 5
LINE, NAME_ROOM = 13, 0.2  # of a name in a scatter: pixels, and a share of the width


def bars(chart: Bars) -> str:
    """Return one bar a row, from nought to the largest value."""
    most = max((value for _, value, _, _ in chart.rows), default=0) or 1
    rows = []
    for label, value, shown, tone in chart.rows:
        bar = f'<rect class="{tone}" width="{_number(100 * value / most)}%" height="100%" rx="2"/>'
        rows.append(
            f'<div class="row"><span class="label">{_label(label)}</span>'
            f'<svg class="track" aria-hidden="true">{bar}</svg><span class="value">{escape(shown)}</span></div>'
        )
    return f'<div class="chart bars"><h4>{escape(chart.title)}</h4>{"".join(rows)}</div>'


def intervals(chart: Intervals) -> str:
    """Return a point with its interval a row, on one scale that holds nought; faint where it shows nothing."""
    step, low, high = _scale(
        min([0.0, *(low for _, low, _, _, _ in chart.rows)]), max([0.0, *(high for _, _, _, high, _ in chart.rows)])
    )

    digits = max(1, 1 - math.floor(math.log10(step)))

    def place(value: float) -> str:
        return f"{_number(100 * (value - low) / (high - low))}%"

    nought = f'<line class="nought" x1="{place(0)}" x2="{place(0)}" y1="0" y2="100%"/>'
    rows = []
    for label, least, middle, most, sure in chart.rows:
        tone = "plain" if sure else "quiet"
        mark = (
            f'<line class="{tone}" x1="{place(least)}" x2="{place(most)}" y1="50%" y2="50%"/>'
            f'<circle class="{tone}" cx="{place(middle)}" cy="50%" r="4"/>'
        )
        shown = f"{round(middle, digits) + 0.0:{'+' if low < 0 else ''}.{digits}f}"
        rows.append(
            f'<div class="row"><span class="label">{_label(label)}</span>'
            f'<svg class="track" role="img" aria-label="{least:.2f} to {most:.2f}">{nought}{mark}</svg>'
            f'<span class="value">{shown}</span></div>'
        )
    ticks = "".join(
        f'<text x="{place(tick)}" y="12">{_number(tick)}</text>'
        for tick in (low + step * number for number in range(round((high - low) / step) + 1))
    )
    axis = (
        f'<div class="row axis"><span class="label">{escape(chart.unit)}</span>'
        f'<svg class="track">{ticks}</svg><span class="value"></span></div>'
    )
    return f'<div class="chart intervals"><h4>{escape(chart.title)}</h4>{"".join(rows)}{axis}</div>'


def histogram(chart: Histogram) -> str:
    """Return columns of equal width, with the axis in the chart's unit."""
    most, bins = max(chart.shares), len(chart.shares)
    columns = "".join(
        f'<rect class="plain" x="{_number(100 * at / bins)}%" width="{_number(92 / bins)}%" '
        f'y="{_number(HEIGHT * (1 - share / most))}" height="{_number(HEIGHT * share / most)}">'
        f"<title>{at * chart.width:,} to {(at + 1) * chart.width - 1:,}: {share:.1%}</title></rect>"
        for at, share in enumerate(chart.shares)
    )
    every = max(1, math.ceil(bins / TICKS))
    ticks = "".join(
        f'<text x="{_number(100 * at / bins)}%" y="{HEIGHT + 16}" class="start">{at * chart.width:,}</text>'
        for at in range(0, bins, every)
    )
    base = f'<line class="nought" x1="0" x2="100%" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    beyond = f"; {chart.beyond:.1%} lie beyond" if chart.beyond >= 0.0005 else ""
    return (
        f'<div class="chart histogram"><h4>{escape(chart.title)}</h4>'
        f'<svg class="columns" height="{HEIGHT + 22}" role="img" aria-label="{escape(chart.title)}">'
        f"{columns}{base}{ticks}</svg>"
        f'<p class="unit">{escape(chart.unit)}; tallest column {most:.1%} of rows{beyond}</p></div>'
    )


def curves(chart: Curves) -> str:
    """Return lines over steps, the scale beside them; lines stretch with the page, their width does not."""
    drawn = [one for one in chart.series if one.points]
    values = [value for one in drawn for _, value in one.points]
    steps = [at for one in drawn for at, _ in one.points]
    step, low, high = _scale(min([0.0, *values] if chart.from_nought else values), max(values))
    stride, _, _ = _scale(0, max(steps))
    last = max(steps)

    def across(at: float) -> str:
        return _number(100 * at / last)

    def down(value: float) -> str:
        return _number(HEIGHT * (high - value) / (high - low))

    scale, grid = _levels(low, high, step, down)
    ticks = "".join(
        f'<text x="{across(at)}%" y="{HEIGHT + 18}">{at:,.0f}</text>'
        for at in (stride * number for number in range(int(last / stride) + 1))
    )
    lines = "".join(
        f'<polyline class="{one.tone}" points="'
        + " ".join(f"{across(at)},{down(value)}" for at, value in _thinned(one.points))
        + '"/>'
        for one in drawn
    )
    marks = "".join(_marks(one, across, down) for one in drawn if len(one.points) <= MARKED)
    names = "".join(f'<span class="key {one.tone}">{escape(one.name)}</span>' for one in drawn)
    keys = f'<p class="keys">{names}</p>' if len(drawn) > 1 else ""
    return (
        f'<div class="chart curves"><h4>{escape(chart.title)}</h4>{keys}'
        f'<div class="plot"><svg aria-hidden="true">{scale}</svg>'
        f'<svg role="img" aria-label="{escape(chart.title)}">{grid}'
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 100 {HEIGHT}" preserveAspectRatio="none">{lines}</svg>'
        f'{marks}{ticks}</svg></div><p class="unit">{escape(chart.unit)}</p></div>'
    )


def scatter(chart: Scatter) -> str:
    """Return points with their intervals, each with its name beside it, on the side where there is room."""
    height = 2 * HEIGHT
    step, low, high = _scale(
        min([0.0, *(least for _, _, least, _, _, _ in chart.points)]),
        max([0.0, *(most for _, _, _, _, most, _ in chart.points)]),
    )
    stride, _, last = _scale(0, max([at for _, at, _, _, _, _ in chart.points], default=1))

    def down(value: float) -> str:
        return _number(height * (high - value) / (high - low))

    scale, grid = _levels(low, high, step, down)
    ticks = "".join(
        f'<text x="{_number(100 * at / last)}%" y="{height + 18}">{at:,g}</text>'
        for at in (stride * number for number in range(round(last / stride) + 1))
    )
    marks = []
    names: list[tuple[float, float]] = []  # how far along and down
    for label, at, least, middle, most, tone in sorted(chart.points, key=lambda point: -point[3]):
        place = f"{_number(100 * at / last)}%"
        side, shift = ("end", -8) if at > last * 0.7 else ("start", 8)
        beside = float(down(middle)) + 4
        while any(abs(at - along) < last * NAME_ROOM and abs(beside - below) < LINE for along, below in names):
            beside += LINE
        names.append((at, beside))
        marks.append(
            f'<line class="{tone}" x1="{place}" x2="{place}" y1="{down(least)}" y2="{down(most)}"/>'
            f'<circle class="{tone}" cx="{place}" cy="{down(middle)}" r="4"><title>{escape(label)}: {middle:.2f} '
            f"[{least:.2f}, {most:.2f}] at {at:,.4g}</title></circle>"
            f'<text class="{side}" x="{place}" dx="{shift}" y="{beside:g}">{escape(label)}</text>'
        )
    return (
        f'<div class="chart scatter"><h4>{escape(chart.title)}</h4>'
        f'<div class="plot"><svg aria-hidden="true" style="height:{height + 22}px">{scale}</svg>'
        f'<svg role="img" aria-label="{escape(chart.title)}" style="height:{height + 22}px">{grid}'
        f'{"".join(marks)}{ticks}</svg></div><p class="unit">up: {escape(chart.unit)}; along: {escape(chart.along)}</p>'
        "</div>"
    )


def _levels(low: float, high: float, step: float, down: Callable[[float], str]) -> tuple[str, str]:
    """Return the figures of a scale, to stand beside a plot, and the lines across it."""
    levels = [low + step * number for number in range(round((high - low) / step) + 1)]
    scale = "".join(f'<text x="100%" y="{float(down(level)) + 4:g}" class="end">{level:g}</text>' for level in levels)
    grid = "".join(f'<line class="grid" x1="0" x2="100%" y1="{down(level)}" y2="{down(level)}"/>' for level in levels)
    return scale, grid


def _marks(one: Series, across: Callable[[float], str], down: Callable[[float], str]) -> str:
    return "".join(
        f'<circle class="{one.tone}" cx="{across(at)}%" cy="{down(value)}" r="3">'
        f"<title>{at:,}: {value:.4g}</title></circle>"
        for at, value in one.points
    )


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return no more points than show, with every peak and every trough kept."""
    size = math.ceil(len(points) / BUCKETS)
    if size <= 2:
        return points
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        ends = {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def _label(text: str) -> str:
    """Return a text that may be broken after an underscore."""
    return escape(text).replace("_", "_<wbr>")


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Return a round step and the multiples of it that hold both values."""
    low, high = float(f"{low:.9g}"), float(f"{high:.9g}")  # a hair above 100 needs no axis to 150
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / TICKS))
    step = next(step * lead for lead in (1, 2, 5, 10) if span / (step * lead) <= TICKS)
    bottom, top = step * math.floor(low / step), step * math.ceil(high / step)
    return step, bottom, top if top > bottom else bottom + step


def _number(value: float) -> str:
    """Return a number with no more digits than show, and no sign before nought."""
    return f"{round(value, 2) + 0.0:g}"
