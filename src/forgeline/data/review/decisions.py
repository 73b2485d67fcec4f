"""What people decided about single rows: a line each, never changed once written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from forgeline.data.layout import DECISIONS
from forgeline.data.review.agreement import Agreement, agreement
from forgeline.data.review.choice import present
from forgeline.errors import DataError
from forgeline.records import read_jsonl

Verdict = Literal["keep", "drop", "edit"]


class Decision(BaseModel):
    """What one person decided about the row `id`.

    `keep` exempts the row from the rules, `drop` sends it to quarantine, and `edit` puts `completion`
    in the place of what the row said. `when` (ISO 8601, UTC) is empty only until a decision is taken in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    verdict: Verdict
    completion: str | None = None
    who: str
    when: str = ""
    note: str = ""

    @field_validator("when")
    @classmethod
    def _in_utc(cls, value: str) -> str:
        return moment(datetime.fromisoformat(value)) if value else ""

    @model_validator(mode="after")
    def _edits_say_what(self) -> Decision:
        if (self.verdict == "edit") != bool(self.completion and self.completion.strip()):
            raise ValueError("a new completion and the verdict edit go together")
        return self

    @property
    def says(self) -> tuple[str, str | None]:
        """What was decided, whoever decided it and whenever."""
        return self.verdict, self.completion


class Conflict(NamedTuple):
    """A row about which people disagree: each one's last decision, the newest (which holds) first."""

    id: str
    views: list[Decision]


class Imported(NamedTuple):
    """What an import changed, and how far people agree on all rows that more than one judged."""

    new: int
    known: int
    conflicts: list[Conflict]
    agreement: list[Agreement]


def decisions(root: Path) -> dict[str, Decision]:
    """Return what holds for each row that people judged: the newest decision on it.

    Raises:
        DataError: naming line and field of an entry that cannot be read.
    """
    return {views[0].id: views[0] for views in _views(_history(root)).values()}


def take_in(root: Path, given: Iterable[Decision], now: datetime) -> Imported:
    """Append decisions that are new to the project's list; those without a time were made `now`.

    A decision is known if it is what the same person had decided of that row by that time.

    Raises:
        DataError: if a row is not in the data; nothing is written then.
    """
    given = sorted(given, key=_order)
    if unknown := {one.id for one in given} - present(root, {one.id for one in given}):
        raise DataError(
            f"The data hold no row {', '.join(sorted(unknown)[:5])} ({len(unknown)} unknown): "
            "import decisions into the project whose rows were exported."
        )
    past: dict[tuple[str, str], list[Decision]] = defaultdict(list)
    for one in _history(root):
        past[one.id, one.who].append(one)
    new = []
    for one in given:
        before = past[one.id, one.who]
        earlier = [other for other in before if other.when <= one.when] if one.when else before
        # Without a time, a decision that was ever made cannot be told from the same file come again.
        if one.says in [other.says for other in (sorted(earlier, key=_order)[-1:] if one.when else earlier)]:
            continue
        new.append(one if one.when else one.model_copy(update={"when": moment(now)}))
        before.append(new[-1])
    if new:
        _append(root / DECISIONS, new)
    latest = _views(_history(root))
    conflicts = [Conflict(name, views) for name, views in latest.items() if len({one.says for one in views}) > 1]
    verdicts = {name: {one.who: one.verdict for one in views} for name, views in latest.items()}
    return Imported(len(new), len(given) - len(new), conflicts, agreement(verdicts))


def moment(time: datetime) -> str:
    """Return a time as ISO 8601 in UTC to the millisecond; one without a zone is in UTC."""
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _history(root: Path) -> list[Decision]:
    path = root / DECISIONS
    if not path.exists():
        return []
    entries = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            entries.append(Decision.model_validate(row))
        except ValidationError as fault:
            first = fault.errors()[0]
            field = ".".join(map(str, first["loc"])) or "decision"
            raise DataError(f"{path}, line {number}, {field}: {first['msg']}.") from None
    return entries


def _views(entries: list[Decision]) -> dict[str, list[Decision]]:
    """Return each judged row's last decision of each person, newest first, in the order of ids."""
    last = {(one.id, one.who): one for one in sorted(entries, key=_order)}
    views: dict[str, list[Decision]] = defaultdict(list)
    for one in sorted(last.values(), key=_order, reverse=True):
        views[one.id].append(one)
    return dict(sorted(views.items()))


def _order(one: Decision) -> tuple[str, ...]:
    return one.when, one.id, one.who, one.verdict, one.completion or ""


def _append(path: Path, new: list[Decision]) -> None:
    """Write the old lines as they stand and the new ones after them, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    partial = path.with_name(path.name + ".part")
    lines = "".join(one.model_dump_json(exclude_defaults=True) + "\n" for one in new)
    partial.write_text(old + ("\n" if old and not old.endswith("\n") else "") + lines, encoding="utf-8")
    os.replace(partial, path)
