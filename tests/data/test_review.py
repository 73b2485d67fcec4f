"""Rows go out to people in three formats and their decisions come back, once, with who and when."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from forgeline.cli.data import app
from forgeline.data import review, table
from forgeline.data.layout import DECISIONS, KEPT, QUARANTINE, SPLITS
from forgeline.errors import DataError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TEXT = {"type": "string"}

# Written from the published task format: https://labelstud.io/guide/task_format and guide/tasks.
LABEL_STUDIO_TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "data": {"type": "object", "minProperties": 1},
            "meta": {"type": "object"},
            "annotations": {"type": "array"},
            "predictions": {"type": "array"},
        },
        "additionalProperties": False,
    },
}
# Written from argilla 2.8: what `rg.Record.from_dict` takes and `rg.Record.to_dict` gives.
ARGILLA_RECORDS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["id", "fields"],
        "properties": {
            "id": TEXT,
            "fields": {"type": "object", "minProperties": 1, "additionalProperties": TEXT},
            "metadata": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
            "suggestions": {"type": "object", "additionalProperties": {"type": "object", "required": ["value"]}},
            "responses": {
                "type": "object",
                "additionalProperties": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["value", "user_id"],
                        "properties": {"value": {}, "user_id": TEXT},
                        "additionalProperties": False,
                    },
                },
            },
            "vectors": {"type": "object"},
            "status": {"enum": ["pending", "completed"]},
            "_server_id": {"type": ["string", "null"]},
        },
        "additionalProperties": False,
    },
}


def row(name: str, completion: str = "Of course.") -> dict:
    turns = [("user", f"May I book {name}?"), ("assistant", completion)]
    return {"id": name, "messages": [{"role": role, "content": text} for role, text in turns], "key": name}


def removed(rows: list[dict], rules: list[str]):
    import pyarrow

    parts = table.from_rows(rows)
    for name, values in {
        "rule": rules,
        "detail": [f"why {rule}" for rule in rules],
        "score": [0.5] * len(rows),
        "duplicate_of": [None] * len(rows),
    }.items():
        parts = parts.append_column(name, pyarrow.array(values))
    return parts


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kept = [row(f"kept-{number}") for number in range(20)]
    table.write(tmp_path / KEPT / "a" / "0-00000.parquet", table.from_rows(kept[:10]))
    table.write(tmp_path / KEPT / "b" / "1-00000.parquet", table.from_rows(kept[10:]))
    gone = [row(f"gone-{number}", 'No, "never",\n=1+1') for number in range(6)] + [
        {"id": "torn", "fault": "x", "key": "t"}
    ]
    rules = ["short"] * 3 + ["rude"] * 3 + ["malformed"]
    table.write(tmp_path / QUARANTINE / "a" / "0-00000.parquet", removed(gone, rules))
    table.write_jsonl(tmp_path / SPLITS["train"], [table.from_rows(kept)])
    return tmp_path


def answered(items: list[review.Item], form: str, folder: Path, people: dict[str, list[str]], minute: int = 0) -> Path:
    """Return a file as it comes back: each person's verdict on each row, in the tool's own export format."""
    edited = lambda verdict: "Yes, gladly." if verdict == "edit" else ""  # noqa: E731
    path = folder / f"back.{'csv' if form == 'csv' else 'json'}"
    if form == "csv":
        review.export(path, items, "csv")
        rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
        for entry, verdict in zip(rows, next(iter(people.values())), strict=True):
            entry |= {"verdict": verdict.title(), "edited_completion": edited(verdict), "note": "seen"}
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, review.formats.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        return path
    review.export(path, items, form)
    entries = json.loads(path.read_text())
    for number, entry in enumerate(entries):
        given = [(who, verdicts[number]) for who, verdicts in people.items()]
        if form == "argilla":
            Draft202012Validator(ARGILLA_RECORDS).validate(entries)
            entry |= {"status": "completed", "_server_id": "7f3e"}
            entry["responses"] = {
                "verdict": [{"value": verdict, "user_id": who} for who, verdict in given],
                "edited_completion": [
                    {"value": edited(verdict), "user_id": who} for who, verdict in given if verdict == "edit"
                ],
            }
        else:
            time = f"2026-02-01T09:{minute:02}:00.000000Z"
            entry |= {"id": number + 1, "project": 3, "drafts": [], "predictions": []}
            entry["annotations"] = [
                {
                    "id": number,
                    "completed_by": {"id": 4, "email": who},
                    "was_cancelled": False,
                    "created_at": time,
                    "updated_at": time,
                    "result": [
                        {"from_name": name, "to_name": "completion", "type": kind, "value": value}
                        for name, kind, value in (
                            ("verdict", "choices", {"choices": [verdict]}),
                            ("edited_completion", "textarea", {"text": [edited(verdict) or items[number].completion]}),
                        )
                    ],
                }
                for who, verdict in given
            ]
            entry["annotations"].append({"result": [], "was_cancelled": True, "completed_by": 9})
    path.write_text(json.dumps(entries))
    return path


def test_a_choice_repeats_and_grows_without_change(root):
    ten, five = (review.sample(root, "train", count, 17) for count in (10, 5))
    assert ten[:5] == five and len({item.id for item in ten}) == 10
    assert [item.id for item in review.sample(root, "train", 10, 18)] != [item.id for item in ten]
    assert ten[0].prompt == f"user: May I book {ten[0].id}?"


def test_a_quarantine_is_chosen_by_rule_without_what_nobody_can_read(root):
    assert {item.id for item in review.quarantined(root, None, 100, 17)} == {f"gone-{number}" for number in range(6)}
    rude = review.quarantined(root, "rude", 100, 17)
    assert {(item.rule, item.detail) for item in rude} == {("rude", "why rude")} and len(rude) == 3
    with pytest.raises(DataError, match=r"rules that removed rows are malformed, rude, short"):
        review.quarantined(root, "long", 10, 17)


@pytest.mark.parametrize("form", review.FORMATS)
def test_each_format_brings_the_decisions_back_once(root, tmp_path, form):
    items = review.quarantined(root, "rude", 3, 17)
    people = {"ann@example.org": ["keep", "drop", "edit"]}
    back = answered(items, form, tmp_path, people)
    outcome = review.take_in(root, review.read(back, "ann@example.org"), NOW)
    assert (outcome.new, outcome.known, outcome.conflicts) == (3, 0, [])
    found = review.decisions(root)
    assert [found[item.id].verdict for item in items] == ["keep", "drop", "edit"]
    assert [found[item.id].completion for item in items] == [None, None, "Yes, gladly."]
    assert {one.who.removeprefix("argilla:") for one in found.values()} == {"ann@example.org"}
    when = "2026-02-01T09:00:00.000Z" if form == "label-studio" else "2026-03-01T12:00:00.000Z"
    assert {one.when for one in found.values()} == {when}
    before = (root / DECISIONS).read_bytes()
    again = review.take_in(root, review.read(back, "ann@example.org"), NOW.replace(month=4))
    assert (again.new, again.known) == (0, 3) and (root / DECISIONS).read_bytes() == before


def test_label_studio_can_show_what_it_is_given(root, tmp_path):
    items = review.quarantined(root, None, 6, 17)
    tasks, config = review.export(tmp_path / "tasks.json", items, "label-studio")
    entries = json.loads(tasks.read_text())
    Draft202012Validator(LABEL_STUDIO_TASKS).validate(entries)
    view = ElementTree.fromstring(config.read_text())  # noqa: S314 our own file
    shown = {tag.attrib["value"].removeprefix("$") for tag in view.iter("Text")}
    assert shown <= set(entries[0]["data"])
    names = {tag.attrib["name"] for tag in view.iter() if "name" in tag.attrib}
    assert {tag.attrib["toName"] for tag in view.iter() if "toName" in tag.attrib} <= names
    assert [tag.attrib["value"] for tag in view.iter("Choice")] == ["keep", "drop", "edit"]


def test_the_newest_of_two_views_holds_and_the_dispute_is_told(root, tmp_path):
    items = review.quarantined(root, None, 4, 17)
    first = answered(items, "label-studio", tmp_path, {"ann": ["keep", "keep", "drop", "drop"]})
    review.take_in(root, review.read(first, "-"), NOW)
    second = answered(items, "label-studio", tmp_path, {"bob": ["keep", "drop", "drop", "drop"]}, minute=5)
    outcome = review.take_in(root, review.read(second, "-"), NOW)
    assert [(row, [one.who for one in views]) for row, views in outcome.conflicts] == [(items[1].id, ["bob", "ann"])]
    assert review.decisions(root)[items[1].id].verdict == "drop"
    # By hand: 3 of 4 agree; chance is 1/2·1/4 + 1/2·3/4 = 1/2; kappa is (3/4 - 1/2) / (1 - 1/2).
    (pair,) = outcome.agreement
    assert (pair.rows, pair.agreed, pair.kappa) == (4, 0.75, 0.5)


def test_a_change_of_mind_counts_whatever_the_order_of_the_files(root, tmp_path):
    (item,) = review.quarantined(root, None, 1, 17)
    files = []
    for minute, verdict in enumerate(("keep", "drop", "keep")):
        path = answered([item], "label-studio", tmp_path, {"ann": [verdict]}, minute)
        files.append(path.rename(tmp_path / f"{minute}.json"))
    for minute, new in ((2, 1), (1, 1), (0, 1), (2, 0)):
        assert review.take_in(root, review.read(files[minute], "-"), NOW).new == new
    held = review.decisions(root)[item.id]
    assert (held.verdict, held.when) == ("keep", "2026-02-01T09:02:00.000Z")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"data": {"id": 3, "completion": ""}, "annotations": []}]', r"task 1, data.id: .*string.*found 3"),
        ('[{"id": "a", "fields": {}, "responses": {}}]', r"record 1, fields.completion: Field required"),
        ('[{"id": "a"}]', r"entry 1: neither `annotations`"),
        ('{"id": "a"}', r"expected a JSON list"),
        ('[{"id": "a"', r"cannot be read"),
        ("id,prompt\na,b\n", r"line 1: no column completion, edited_completion, verdict"),
        ("id,completion,verdict,edited_completion\na,b,maybe,\n", r"line 2, verdict: .*'maybe'"),
        ("id,completion,verdict,edited_completion\na,b,keep,c\n", r"line 2, .*edit go together"),
        ("id,completion,verdict,edited_completion\nstranger,b,keep,\n", r"The data hold no row stranger"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(root, tmp_path, content, sentence):
    path = tmp_path / ("back.json" if content[0] in "[{" else "back.csv")
    path.write_text(content)
    with pytest.raises(DataError, match=sentence):
        review.take_in(root, review.read(path, "ann"), NOW)
    assert not (root / DECISIONS).exists()


def test_a_damaged_list_of_decisions_is_told_by_line(root):
    path = root / DECISIONS
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "a", "verdict": "keep", "who": "ann"}\n{"id": "a", "verdict": "edit", "who": "ann"}\n')
    with pytest.raises(DataError, match=r"decisions.jsonl, line 2, decision: .*edit go together"):
        review.decisions(root)


def test_the_verbs_export_and_import(root, monkeypatch):
    (root / "configs").mkdir()
    (root / "configs" / "project.yaml").touch()
    monkeypatch.chdir(root)
    run = CliRunner()
    done = run.invoke(
        app, ["export", "out.csv", "--what", "quarantine", "--rule", "rude", "--format", "csv", "-n", "2"]
    )
    assert (done.exit_code, done.output) == (0, "2 rows: out.csv\n")
    path = root / "out.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(path.read_text().replace(",rude,,,", ",rude,drop,,"))
    assert path.read_text() != "".join(lines)
    for new in (2, 0):
        done = run.invoke(app, ["import", "out.csv", "--who", "ann", "--json"])
        assert json.loads(done.output) == {"new": new, "known": 2 - new, "conflicts": {}, "agreement": []}
    assert {one.who for one in review.decisions(root).values()} == {"ann"}
