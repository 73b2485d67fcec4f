"""What a verb prints: tables on a terminal, plain lines elsewhere, JSON where a script wants it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under headings; without a terminal, each row is a line of tab-separated cells."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print(f"# {title}")
        for row in cells:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*headings, title=title, title_justify="left", title_style="bold")
    for row in cells:
        drawn.add_row(*row)
    Console().print(drawn, markup=False)


def emit(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@contextmanager
def reserved(as_json: bool) -> Iterator[None]:
    """Keep standard output for the JSON answer: what is printed meanwhile goes to standard error."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
