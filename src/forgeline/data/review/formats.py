"""The three formats in which rows go out and decisions come back: Label Studio, Argilla and CSV.

Nothing is suggested to those who judge, since a suggestion sways. In each format a row has the answers
`verdict` (keep, drop or edit), `edited_completion` and `note`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError

from forgeline.data.review.choice import Item
from forgeline.data.review.decisions import Decision, Verdict, moment
from forgeline.errors import DataError
from forgeline.records import write_json

Format = Literal["label-studio", "argilla", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
VERDICTS: tuple[str, ...] = get_args(Verdict)
COLUMNS = ("id", "prompt", "completion", "rule", "verdict", "edited_completion", "note")
GUIDE = (
    "keep: the row is good as it stands, whatever a rule says. drop: it must not train a model. "
    "edit: it is good with the completion that you write."
)
LABEL_CONFIG = f"""<View>
  <Header value="Prompt"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="Completion"/>
  <Text name="completion" value="$completion"/>
  <Header size="5" value="Removed by"/>
  <Text name="rule" value="$rule"/>
  <Header size="5" value="{GUIDE}"/>
  <Choices name="verdict" toName="completion" choice="single-radio" required="true" showInline="true">
    <Choice value="keep"/>
    <Choice value="drop"/>
    <Choice value="edit"/>
  </Choices>
  <View visibleWhen="choice-selected" whenTagName="verdict" whenChoiceValue="edit">
    <TextArea name="edited_completion" toName="completion" value="$completion" rows="4" maxSubmissions="1"/>
  </View>
  <TextArea name="note" toName="completion" placeholder="Note" rows="2" maxSubmissions="1"/>
</View>
"""

Model = TypeVar("Model", bound=BaseModel)


def export(out: Path, items: Sequence[Item], form: Format) -> list[Path]:
    """Write the rows for people, and beside them what their tool needs to show them; return the files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(item._asdict() for item in items)
        return [out]
    if form == "label-studio":
        write_json(out, [{"data": item._asdict(), "meta": {"source": item.source}} for item in items])
        beside = out.with_suffix(".xml")
        beside.write_text(LABEL_CONFIG, encoding="utf-8")
        return [out, beside]
    write_json(out, [_argilla_record(item) for item in items])
    beside = out.with_suffix(".settings.json")
    write_json(beside, _argilla_settings())
    return [out, beside]


def read(path: Path, who: str) -> list[Decision]:
    """Return the decisions in a file that came back; `who` made those that name nobody.

    Entries that nobody judged, and tasks that somebody skipped, are passed over.

    Raises:
        DataError: naming file, entry and field of what cannot be read.
    """
    try:
        if path.suffix.lower() == ".csv":
            return list(_read_csv(path, who))
        value = orjson.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, csv.Error, orjson.JSONDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise DataError(f"{path} cannot be read: {reason}.") from None
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f"{path}: expected a JSON list of Label Studio tasks or Argilla records.")
    found: list[Decision] = []
    for number, entry in enumerate(value, start=1):
        if "annotations" in entry:
            found += _from_label_studio(f"{path}, task {number}", entry, who)
        elif "responses" in entry:
            found += _from_argilla(f"{path}, record {number}", entry, who)
        else:
            raise DataError(
                f"{path}, entry {number}: neither `annotations` (Label Studio's JSON export) "
                "nor `responses` (Argilla's records as JSON)."
            )
    return found


# Label Studio: the tasks of its JSON export


class _Value(BaseModel):
    choices: list[str] = []
    text: list[str] | str = []


class _Result(BaseModel):
    from_name: str
    value: _Value

    def answer(self) -> str:
        """Return what was chosen, or what was written."""
        return "\n".join(
            self.value.choices or ([self.value.text] if isinstance(self.value.text, str) else self.value.text)
        )


class _Person(BaseModel):
    id: int
    email: str = ""


class _Annotation(BaseModel):
    result: list[_Result]
    was_cancelled: bool = False
    completed_by: int | _Person | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    def by(self) -> str | None:
        """Return who made it, if the file says."""
        if isinstance(self.completed_by, _Person):
            return self.completed_by.email or f"label-studio:{self.completed_by.id}"
        return None if self.completed_by is None else f"label-studio:{self.completed_by}"


class _Shown(BaseModel):
    id: str
    completion: str


class _Task(BaseModel):
    data: _Shown
    annotations: list[_Annotation]


def _from_label_studio(place: str, entry: dict[str, Any], who: str) -> Iterator[Decision]:
    task = _parse(place, _Task, entry)
    for one in task.annotations:
        if one.was_cancelled or not one.result:
            continue
        when = one.updated_at or one.created_at
        answers = {result.from_name: result.answer() for result in one.result}
        yield _decision(
            place, task.data.id, task.data.completion, answers, one.by() or who, moment(when) if when else ""
        )


# Argilla 2: the records that `dataset.records.to_json` writes; they tell no time


class _Response(BaseModel):
    value: str | None
    user_id: str | None = None


class _Fields(BaseModel):
    completion: str


class _Record(BaseModel):
    id: str
    fields: _Fields
    responses: dict[str, list[_Response]]


def _from_argilla(place: str, entry: dict[str, Any], who: str) -> Iterator[Decision]:
    record = _parse(place, _Record, entry)
    by_person: dict[str | None, dict[str, str]] = {}
    for question, responses in record.responses.items():
        for response in responses:
            by_person.setdefault(response.user_id, {})[question] = response.value or ""
    for person, answers in by_person.items():
        if any(answers.values()):  # who discards a record answers nothing
            by = f"argilla:{person}" if person else who
            yield _decision(place, record.id, record.fields.completion, answers, by, "")


def _argilla_record(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "fields": {"prompt": item.prompt, "completion": item.completion},
        "metadata": {"source": item.source, "rule": item.rule, "detail": item.detail},
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _argilla_settings() -> dict[str, Any]:
    """Return the dataset's settings in the form that `rg.Settings.from_json` reads."""
    options = [{"value": verdict, "text": verdict} for verdict in VERDICTS]
    texts = [("edited_completion", "The completion as it should be"), ("note", "Note")]
    plain = {"type": "text", "use_markdown": False}
    return {
        "guidelines": GUIDE,
        "fields": [
            {"name": name, "title": name.capitalize(), "required": name == "completion", "settings": plain}
            for name in ("prompt", "completion")
        ],
        "questions": [
            {
                "name": "verdict",
                "title": "Verdict",
                "required": True,
                "settings": {"type": "label_selection", "options": options, "visible_options": len(options)},
            },
            *({"name": name, "title": title, "required": False, "settings": plain} for name, title in texts),
        ],
        "metadata": [
            {"name": name, "title": name.capitalize(), "settings": {"type": "terms", "values": None}}
            for name in ("source", "rule", "detail")
        ],
        "vectors": [],
        "allow_extra_metadata": False,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }


# CSV


def _read_csv(path: Path, who: str) -> Iterator[Decision]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before the first column
        reader = csv.DictReader(file)
        if missing := {"id", "completion", "verdict", "edited_completion"} - set(reader.fieldnames or ()):
            raise DataError(f"{path}, line 1: no column {', '.join(sorted(missing))}; expected {', '.join(COLUMNS)}.")
        for row in reader:
            answers = {name: row.get(name) or "" for name in ("verdict", "edited_completion", "note")}
            answers["verdict"] = answers["verdict"].strip().lower()
            if any(answers.values()):
                yield _decision(f"{path}, line {reader.line_num}", row["id"], row["completion"] or "", answers, who, "")


# Common to all


def _decision(place: str, name: str, shown: str, answers: dict[str, str], who: str, when: str) -> Decision:
    """Return what a person's answers mean; a completion left as it was shown is no edit."""
    verdict, text = answers.get("verdict", ""), answers.get("edited_completion", "").strip()
    if verdict != "edit" and text == shown.strip():
        text = ""
    values = {"id": name, "verdict": verdict, "completion": text or None, "who": who, "when": when}
    return _parse(place, Decision, {**values, "note": answers.get("note", "").strip()})


def _parse(place: str, model: type[Model], value: dict[str, Any]) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as fault:
        first = fault.errors()[0]
        field = ".".join(map(str, first["loc"])) or "verdict and edited_completion"
        raise DataError(f"{place}, {field}: {first['msg']}, found {first['input']!r:.80}.") from None
