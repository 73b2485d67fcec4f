"""One progress bar for all long work: rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Bar:
    """What the work inside `progress_bar` reports to."""

    def advance(self, steps: int, amount: float = 0, note: str = "") -> None:
        """Count finished steps, the amount of work in them, and say something beside the bar."""


@contextmanager
def progress_bar(title: str, total: int, unit: str = "") -> Iterator[Bar]:
    """Show how far `total` steps have come, on standard error; `unit` names what is counted a second."""
    if not sys.__stderr__ or not sys.__stderr__.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(file=sys.__stderr__), transient=True) as display:
        task = display.add_task(title, total=total, rate="", note="")
        started = time.perf_counter()

        class Live(Bar):
            amount = 0.0

            def advance(self, steps: int, amount: float = 0, note: str = "") -> None:
                self.amount += amount
                rate = self.amount / (time.perf_counter() - started)
                display.update(task, advance=steps, rate=f"{rate:,.0f} {unit}/s" if self.amount else "", note=note)

        yield Live()
