"""`forgeline data preview`: how a source is read, before anything is."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgeline.cli.options import Json

if TYPE_CHECKING:
    from forgeline.data.ingest.preview import Preview

WIDTH = 100  # characters shown of a turn; twice as many of a row that cannot be read


def preview(
    what: Annotated[
        str | None, typer.Argument(metavar="[SOURCE|URI]", help="A source of configs/data.yaml, or a file or address.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows of each source.")] = 5,
    as_json: Json = False,
) -> None:
    """Show what a source is taken for: compression, format, shape, and its first rows or why they are none."""
    from forgeline.cli.output import emit, table

    previews = _previews(what, rows)
    if as_json:
        emit([asdict(one) for one in previews])
        return
    for one in previews:
        files = [f"{name}: {form}" for name, form in one.files[:3]]
        more = f" and {len(one.files) - 3} more files" if len(one.files) > 3 else ""
        table(
            f"{one.source}: {one.shape}; {', '.join(files)}{more}",
            ("row", "what it says", "and besides"),
            [_cells(row) for row in one.rows],
        )


def _previews(what: str | None, rows: int) -> list[Preview]:
    from forgeline.config import load
    from forgeline.config.schema import Source
    from forgeline.data.ingest.preview import preview
    from forgeline.errors import DataError

    if what is not None and (Path(what).exists() or not re.fullmatch("[a-z][a-z0-9_-]*", what)):
        return [preview(what, Source(uri=[what]), Path.cwd(), rows)]
    config = load()
    sources = {name: source for name, source in config.data.fetch.sources.items() if what in {None, name}}
    if not sources:
        known = ", ".join(config.data.fetch.sources)
        raise DataError(f"{what} is neither a file nor a source of configs/data.yaml, which has {known}.")
    return [preview(name, source, config.root, rows, config.data) for name, source in sources.items()]


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return where a row stands, its turns or its fault, and the rest of it."""
    origin = row.get("origin", {})
    place = str(origin.get("line", origin.get("row", origin.get("template", ""))))
    if "fault" in row:
        said = f"FAULT {row['fault']}: {_short(row.get('raw', ''), 2 * WIDTH)}"
    else:
        said = " | ".join(f"{turn['role']}: {_short(turn['content'], WIDTH)}" for turn in row["messages"])
    named = ("id", "key", "messages", "fault", "raw", "origin", "source")
    rest = {name: value for name, value in row.items() if name not in named and value not in ([], {}, 1.0)}
    rest |= {"fields": fields} if (fields := origin.get("fields")) else {}
    return place, said, _short(", ".join(f"{name}: {value}" for name, value in rest.items()), WIDTH)


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
