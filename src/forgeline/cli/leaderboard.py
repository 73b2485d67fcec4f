"""`leaderboard`: all registered versions by what they scored and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgeline.cli.options import Json


def leaderboard(
    html: Annotated[Path | None, typer.Option("--html", help="Write it as one page, too.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the registered versions by the first success metric; those of other test prompts stand apart."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load

    config, html = load(), html.absolute() if html else None
    environment.enter(config.root)
    with reserved(as_json):
        from forgeline.registry import leaderboard as ranking

        found = ranking.leaderboard(config)
        if html:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(ranking.page(found), encoding="utf-8")
    if as_json:
        emit(found.model_dump())
        return
    if not (found.boards or found.unranked):
        print("nothing is registered yet; `forgeline run` does that")
    for board in found.boards:
        title = f"by {board.metric}, {board.prompts} test prompts {board.test_digest[:12]}"
        table(title, ranking.headings(board), [ranking.row(standing, board) for standing in board.standings])
        table("the other metrics", *ranking.others(board))
    if len(found.boards) > 1:
        print(ranking.APART)
    for number, why in found.unranked.items():
        print(f"version {number} has no place: {why}")
