"""Blind sheets: replies of two or more models side by side, for people who do not know whose is whose."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from forgeline.errors import EvaluationError
from forgeline.evaluation import sheet_page
from forgeline.evaluation.report import Report, Row
from forgeline.lineage import value_digest
from forgeline.records import write_json

TIE, BAD = "tie", "bad"
MOST = 8  # models side by side: one key each, and one for a tie
PAGE, TABLE, KEY = "sheet.html", "sheet.csv", "key.json"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would compute


class Rated(BaseModel):
    """A model on a sheet, and the number of its version if it is registered."""

    name: str
    version: int | None
    data_digest: str


class Line(BaseModel):
    """One prompt of the sheet: what stands left to right, each reply with the places of the models that gave it."""

    id: str
    prompt: str
    replies: list[str]
    models: list[list[int]]


class Key(BaseModel):
    """Which reply is whose. It stays with the owner of the sheet; `digest` names the sheet.

    `alike` counts the chosen prompts that all models answered in the same words: nobody is shown them, and they
    are ties.
    """

    digest: str
    test_digest: str
    models: list[Rated]
    lines: dict[str, Line]
    alike: int

    @staticmethod
    def read(folder: Path) -> Key:
        """Return the key of a folder; raise EvaluationError if there is none, or it is no key."""
        path = folder / KEY
        try:
            return Key.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise EvaluationError(
                f"{path} cannot be read as a sheet's key ({str(error).splitlines()[0]}): name the folder that "
                "`forgeline sheet export` wrote; without its key nobody knows whose replies were judged."
            ) from error


def make(models: Sequence[tuple[Rated, Report]], rows: int, seed: int) -> Key:
    """Return a sheet of `rows` prompts, their order and the place of each model on each line shuffled.

    Raises:
        EvaluationError: if the models answered different prompts, are too few or too many, or say the same.
    """
    names = [rated.name for rated, _ in models]
    if not 2 <= len(set(names)) == len(names) <= MOST:
        raise EvaluationError(f"A sheet sets 2 to {MOST} different models side by side; found {', '.join(names)}.")
    first = models[0][1]
    for name, (_, report) in zip(names, models, strict=True):
        if report.test_digest != first.test_digest:
            raise EvaluationError(
                f"{names[0]} and {name} answered different test prompts, and cannot be set side by side: name a "
                "bundle or a folder in place of a version, which then answers today's prompts."
            )
    chance = random.Random(seed)
    chosen = chance.sample(range(len(first.rows)), min(rows, len(first.rows)))
    lines = [_line([report.rows[place] for _, report in models], chance) for place in chosen]
    shown = [line for line in lines if len(line.replies) > 1]
    if not shown:
        raise EvaluationError(f"{', '.join(names)} answered all {len(lines)} prompts in the same words: choose others.")
    digest = value_digest([names, first.test_digest, seed, [line.model_dump() for line in shown]])[:16]
    return Key(
        digest=digest,
        test_digest=first.test_digest,
        models=[rated for rated, _ in models],
        lines={str(number): line for number, line in enumerate(shown, start=1)},
        alike=len(lines) - len(shown),
    )


def export(key: Key, folder: Path) -> list[Path]:
    """Write the page, the table and the key, and return their paths.

    Raises:
        EvaluationError: if the folder holds a sheet already: its key must not be lost.
    """
    if (folder / KEY).exists():
        raise EvaluationError(f"{folder} holds a sheet already: name another folder, or remove this one.")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [(number, line.prompt, line.replies) for number, line in key.lines.items()]
    (folder / PAGE).write_text(sheet_page.render(key.digest, lines), encoding="utf-8")
    most = max(len(replies) for _, _, replies in lines)
    with (folder / TABLE).open("w", encoding="utf-8-sig", newline="") as file:  # the mark tells spreadsheets UTF-8
        writer = csv.writer(file)
        writer.writerow(["sheet", "row", "prompt", *(f"reply_{n}" for n in range(1, most + 1)), "verdict", "note"])
        for number, prompt, replies in lines:
            texts = [prompt, *replies, *[""] * (most - len(replies))]
            writer.writerow([key.digest, number, *(_inert(text) for text in texts), "", ""])
    write_json(folder / KEY, key.model_dump(mode="json"))
    return [folder / name for name in (PAGE, TABLE, KEY)]


def _line(rows: Sequence[Row], chance: random.Random) -> Line:
    """Return the models' replies to one prompt in an order of chance; those in the same words stand once."""
    models: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        models.setdefault(row.reply.strip(), []).append(place)
    replies = chance.sample([*models], len(models))
    return Line(id=rows[0].id, prompt=rows[0].prompt, replies=replies, models=[models[reply] for reply in replies])


def _inert(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
