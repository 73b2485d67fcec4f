from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forgeline.config import load
from forgeline.config.schema import Clean
from forgeline.data.clean import clean, clean_rows
from forgeline.data.fetch import fetch
from forgeline.errors import DataError
from forgeline.records import Record, read_jsonl, read_records


def row(number: int, prompt: str, reply: str, key: str | None = None) -> dict[str, Any]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"id": f"r{number}", "key": key or f"k{number}", "messages": turns, "origin": {"source": "here"}}


def test_every_row_is_kept_quarantined_or_merged() -> None:
    rows = [
        row(0, "hi", "Hello , you !"),
        row(1, "hi", "hello, you"),
        row(2, "hi", "Good day."),
        row(3, "hi", "Good evening."),
        row(4, "a", "  "),
        row(5, "a", "x"),
        row(6, "a", "y" * 700),
        row(7, "a", "Your code is #BOOKING-BOOK-REF# ."),
        row(2, "b", "An id that is taken."),
        {"id": "r9", "raw": "{broken 01223315702", "fault": "not JSON", "origin": {"source": "here", "line": 9}},
    ]
    kept, removed, _ = clean_rows(rows, Clean(max_references=2))
    assert [record.id for record in kept] == ["r0", "r2"]
    assert Counter(entry["reason"] for entry in removed) == {
        "duplicate": 1, "over_reference_cap": 1, "empty": 1, "too_short": 1, "too_long": 1,
        "unfilled_placeholder": 1, "malformed": 2,
    }  # fmt: skip
    assert len(kept) + len(removed) == len(rows)
    duplicate = next(entry for entry in removed if entry["reason"] == "duplicate")
    assert duplicate["duplicate_of"] == "r0" and kept[0].origin["merged"] == ["r1"]
    broken = removed[-1]
    assert broken["detail"] == "here, line 9: not JSON" and broken["row"]["raw"] == "{broken [PHONE]"


def test_cleaning_twice_changes_nothing() -> None:
    rows = [row(n, f"p {n} , call 01223 31570{n}", f"I ' m \t at 0122331570{n} ( now ) .\n Bye !") for n in range(5)]
    once, _, _ = clean_rows(rows, Clean())
    twice, removed, masked = clean_rows([record.model_dump() for record in once], Clean())
    assert twice == once and not removed and not masked


def test_prompts_that_masking_makes_equal_share_one_key() -> None:
    rows = [
        row(0, "phone: 01223315702", "One.", "a"),
        row(1, "phone: 01223315703", "Two.", "b"),
        row(2, "x", "y z", "b"),
    ]
    kept, _, masked = clean_rows(rows, Clean())
    assert {record.key for record in kept} == {"a"} and masked == {"phone": 2}


def test_nothing_personal_is_left_in_what_is_kept() -> None:
    rows = [{**row(0, "hi", "Write to a@b.org."), "key": "a@b.org", "references": ["Ring 01223315702."]}]
    rows[0]["origin"]["fields"] = {"mail": "a@b.org"}
    [record], _, _ = clean_rows(rows, Clean())
    assert "a@b.org" not in record.model_dump_json() and record.references == ["Ring [PHONE]."]


def test_rows_in_many_shapes_are_adapted_and_faults_carried(project: Path, write_rows: Any) -> None:
    lines: list[Any] = [
        {"prompt": "p1", "completion": "c one", "colour": "red"},
        {"messages": [{"role": "user", "content": "p2"}, {"role": "assistant", "content": "c two"}]},
        {
            "id": "mine",
            "key": "k",
            "messages": [{"role": "user", "content": "p3"}, {"role": "assistant", "content": "ok"}],
        },
        {"prompt": "no completion"},
        {"prompt": "empty completion", "completion": " "},
        {"messages": [{"role": "user", "content": "p4"}]},
        {"messages": [{"role": "narrator", "content": "p5"}, {"role": "assistant", "content": "c"}]},
        {"messages": "hello"},
        "[1, 2]",
        "{not json",
    ]
    write_rows(project, lines)
    config = load(project)
    assert fetch(project, config.data)["rows"] == len(lines)
    report = clean(project, config.data)
    assert report["rows"] == {"in": 10, "kept": 3, "quarantined": 7, "merged": 0}
    assert {record.id for record in read_records(project / "data/clean/records.jsonl")} >= {"mine"}
    details = [entry["detail"] for entry in read_jsonl(project / "data/clean/quarantine.jsonl")]
    assert all(f"data/source/rows.jsonl, line {n}: " in detail for n, detail in enumerate(details, start=4))
    assert "found prompt" in details[0] and "completion is empty" in details[1]


def test_a_derived_key_does_not_depend_on_the_system_turn(project: Path) -> None:
    config = load(project).data
    keys = []
    for system in ("You help.", "You help a lot."):
        fetch(project, config.model_copy(update={"fetch": config.fetch.model_copy(update={"system": system})}))
        keys.append([one["key"] for one in read_jsonl(project / "data/raw/records.jsonl")])
    assert keys[0] == keys[1]


def test_files_that_cannot_be_used_are_one_sentence(project: Path, tmp_path: Path, write_rows: Any) -> None:
    config = load(project).data
    write_rows(project, ["not", "json"])
    with pytest.raises(DataError, match="not a JSON-lines file"):
        fetch(project, config)
    (tmp_path / "far.jsonl").write_text("{}")
    elsewhere = config.fetch.model_copy(update={"sources": ["../far.jsonl"]})
    with pytest.raises(DataError, match="outside data/source/"):
        fetch(project, config.model_copy(update={"fetch": elsewhere}))


def test_no_row_left_says_why(project: Path) -> None:
    config = load(project).data
    fetch(project, config)
    strict = config.model_copy(update={"clean": config.clean.model_copy(update={"min_chars": 500})})
    with pytest.raises(DataError, match=r"left none of 60 rows \(too_short 60\)"):
        clean(project, strict)


def test_the_record_form_is_kept(project: Path) -> None:
    config = load(project).data
    fetch(project, config)
    clean(project, config)
    first = read_records(project / "data/clean/records.jsonl")[0]
    assert isinstance(first, Record) and first.completion == "It is the number 0, sir."
    assert first.origin == {"source": "data/source/rows.jsonl", "line": 1}
