"""A page as one HTML file that needs nothing else: no network, no script, charts as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from forgeline.page.blocks import (
    Bars,
    Block,
    Cell,
    Chart,
    Code,
    Curves,
    Example,
    Examples,
    Figures,
    Histogram,
    Intervals,
    Marked,
    Points,
    Prose,
    Scatter,
    Section,
    Table,
    count,
    is_number,
)
from forgeline.page.draw import bars, curves, histogram, intervals, scatter
from forgeline.page.style import STYLE

FOLDED = 12  # sentences that are shown without being asked for


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the sections as an HTML page; what comes from data cannot become markup."""
    names = [(_slug(section.title), section) for section in sections]
    contents = "".join(f'<li><a href="#{slug}">{escape(section.title)}</a></li>' for slug, section in names)
    body = "\n".join(_section(slug, section) for slug, section in names)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<nav aria-label="Contents"><p>{escape(title)}</p><ol>{contents}</ol></nav>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def _section(slug: str, section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return f'<section id="{slug}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f"<p>{_prose(block.words)}</p>"
        case Points():
            return _points(block.sentences)
        case Figures():
            pairs = "".join(
                f"<div><dt>{escape(name)}</dt><dd>{escape(number)}</dd></div>" for name, number in block.numbers
            )
            return f'<dl class="figures">{pairs}</dl>'
        case Table():
            return _table(block)
        case Chart():
            drawn = "".join(_drawn(chart) for chart in block.drawn)
            return f'<figure><div class="drawn">{drawn}</div><figcaption>{escape(block.caption)}</figcaption></figure>'
        case Examples():
            rows = "".join(_example(row) for row in block.rows)
            kind = "examples beside" if block.beside else "examples"
            return f'<div class="{kind}"><h3>{escape(block.title)}</h3><div>{rows}</div></div>'


def _points(sentences: list[str]) -> str:
    points = f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"
    if len(sentences) <= FOLDED:
        return points
    return f"<details><summary>{len(sentences)} findings in sentences</summary>{points}</details>"


def _drawn(chart: Bars | Intervals | Histogram | Curves | Scatter) -> str:
    match chart:
        case Bars():
            return bars(chart)
        case Intervals():
            return intervals(chart)
        case Histogram():
            return histogram(chart)
        case Curves():
            return curves(chart)
        case Scatter():
            return scatter(chart)


def _table(block: Table) -> str:
    right = [all(is_number(row[column]) for row in block.rows) for column in range(len(block.headings))]
    kinds = [' class="number"' if numbers else "" for numbers in right]
    head = "".join(f"<th{kind}>{escape(text)}</th>" for kind, text in zip(kinds, block.headings, strict=True))
    rows = "".join(
        f"<tr>{''.join(f'<td{kind}>{_cell(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in block.rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, int):
        return count(cell)
    return f"<code>{escape(cell)}</code>" if isinstance(cell, Code) and cell else escape(cell)


def _example(example: Example) -> str:
    texts = "".join(f"<div><dt>{escape(name)}</dt><dd>{_text(text)}</dd></div>" for name, text in example.texts)
    return f"<article><h4>{escape(example.heading)}</h4><dl>{texts}</dl></article>"


def _text(text: str | Marked) -> str:
    """Return a text with its marks, which are also told to those who hear the page."""
    if isinstance(text, str):
        return escape(text)
    forms = {
        "same": "{}",
        "added": '<ins><span class="heard">[added: </span>{}<span class="heard">]</span></ins>',
        "removed": '<del><span class="heard">[missing: </span>{}<span class="heard">]</span></del>',
    }
    return "".join(forms[mark].format(escape(part)) for mark, part in text.parts)


def _prose(words: str) -> str:
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", words)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
