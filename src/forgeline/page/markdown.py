"""A page as Markdown: it reads well as text, and its charts are pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from forgeline.page.blocks import (
    Block,
    Cell,
    Chart,
    Code,
    Example,
    Examples,
    Figures,
    Marked,
    Points,
    Prose,
    Section,
    Table,
    count,
    is_number,
)


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the sections as Markdown."""
    lines = [f"# {title}"]
    for section in sections:
        lines += [f"## {section.title}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(lines) + "\n"


def _block(block: Block) -> str:
    match block:
        case Prose():
            return block.words
        case Points():
            return "\n".join(f"- {_plain(sentence)}" for sentence in block.sentences)
        case Figures():
            return _table(("", ""), [(name, number) for name, number in block.numbers])
        case Table():
            return _table(block.headings, block.rows)
        case Chart():
            return f"![{_plain(block.caption)}]({block.picture})"
        case Examples():
            return "\n\n".join([f"### {_plain(block.title)}", *(_example(row) for row in block.rows)])


def _table(headings: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    right = [all(is_number(row[column]) for row in rows) for column in range(len(headings))]
    lines = [
        [_plain(heading) for heading in headings],
        ["---:" if numbers else "---" for numbers in right],
        *([_cell(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, int):
        return count(cell)
    return _fixed(cell) if isinstance(cell, Code) and cell else _plain(cell)


def _example(example: Example) -> str:
    text = "\n".join(f"{name}: {_text(text)}" for name, text in example.texts)
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{_plain(example.heading)}\n\n{fence}text\n{text}\n{fence}"


def _text(text: str | Marked) -> str:
    """Return a text with its marks in the notation of wdiff, for it stands in a fence."""
    if isinstance(text, str):
        return text
    forms = {"same": "{}", "added": "{{+{}+}}", "removed": "[-{}-]"}
    return "".join(forms[mark].format(part) for mark, part in text.parts)


def _plain(text: str) -> str:
    """Return a text from the data so that Markdown shows it as it stands, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _fixed(text: str) -> str:
    """Return a text as code; a bar is escaped, for it would end a table's cell even there."""
    text = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (1 + _longest_run(text))
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def _longest_run(text: str) -> int:
    return max((len(list(run)) for tick, run in groupby(text) if tick == "`"), default=0)
