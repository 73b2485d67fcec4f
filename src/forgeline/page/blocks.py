"""What a page is made of: sections of blocks, written once and shown as HTML and as Markdown.

Prose is the page's own and may hold `code` and **strong** words. Everything else comes from data or
configuration and is shown as it stands: each form of the page escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Tone = Literal["good", "plain", "lost", "quiet"]
Mark = Literal["same", "added", "removed"]


class Code(str):
    """A name or a value that is set in fixed width."""

    __slots__ = ()


class Number(str):
    """A number that is written out already."""

    __slots__ = ()


Cell = str | int | Code | Number


class Prose(NamedTuple):
    """A paragraph of the page's own words."""

    words: str


class Points(NamedTuple):
    """Sentences from a report."""

    sentences: list[str]


class Figures(NamedTuple):
    """The few numbers that say most, each with its name."""

    numbers: list[tuple[str, str]]


class Table(NamedTuple):
    """Rows under headings; numbers stand right."""

    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]]


class Bars(NamedTuple):
    """A length a row: label, value, what is written beside it, tone."""

    title: str
    rows: list[tuple[str, float, str, Tone]]


class Intervals(NamedTuple):
    """An estimate with its interval a row: label, low, estimate, high, whether it shows something."""

    title: str
    unit: str
    rows: list[tuple[str, float, float, float, bool]]


class Histogram(NamedTuple):
    """Shares of rows by value: bin `n` begins at `n * width`; `beyond` lie above the last one."""

    title: str
    unit: str
    width: int
    shares: list[float]
    beyond: float


class Series(NamedTuple):
    """One line of a chart: its name, its tone, and its values by step."""

    name: str
    tone: Tone
    points: list[tuple[int, float]]


class Curves(NamedTuple):
    """Values by step. The axis begins at nought, or at the smallest value where only differences matter."""

    title: str
    unit: str
    series: list[Series]
    from_nought: bool = True


class Scatter(NamedTuple):
    """Points with an interval upwards: label, how far along, low, value, high, tone. The axis along begins at 0."""

    title: str
    along: str
    unit: str
    points: list[tuple[str, float, float, float, float, Tone]]


class Chart(NamedTuple):
    """A picture beside the Markdown, and the charts that the page draws in its place."""

    picture: str
    caption: str
    drawn: Sequence[Bars | Intervals | Histogram | Curves | Scatter]


class Marked(NamedTuple):
    """A text beside another: in order, what both have, what it alone has, and what it lacks."""

    parts: list[tuple[Mark, str]]


class Example(NamedTuple):
    """A row from the data: what it is, and its texts by name."""

    heading: str
    texts: list[tuple[str, str | Marked]]


class Examples(NamedTuple):
    """Rows from the data under one heading, their texts one below the other or side by side."""

    title: str
    rows: list[Example]
    beside: bool = False


Block = Prose | Points | Figures | Table | Chart | Examples


class Section(NamedTuple):
    """A part of the page under a heading."""

    title: str
    blocks: list[Block]


def is_number(cell: Cell) -> bool:
    """Return whether a cell stands right."""
    return isinstance(cell, int | Number)


def count(number: Any) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{number:,}"
