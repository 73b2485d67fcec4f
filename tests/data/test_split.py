from __future__ import annotations

from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.config.schema import Split
from forgeline.data.assess import assess
from forgeline.data.clean import clean
from forgeline.data.fetch import fetch
from forgeline.data.split import deal, leaks, split
from forgeline.errors import DataError
from forgeline.records import Message, Record, read_records


def record(prompt: str, reply: str, key: str | None = None, name: str = "r") -> Record:
    turns = [Message(role="user", content=prompt), Message(role="assistant", content=reply)]
    return Record(id=f"{name}-{prompt}-{reply}", messages=turns, key=key or prompt)


RULE = Split(validation=0.1, test=0.2)


def test_shares_are_met_and_old_keys_stay_when_rows_are_added() -> None:
    old = [record(f"prompt {n}", f"reply {n}") for n in range(2000)]
    before, after = deal(old, RULE), deal([record(f"new {n}", "x") for n in range(500)] + old, RULE)
    assert len(before["test"]) / 2000 == pytest.approx(0.2, abs=0.03)
    for name in before:
        assert {one.key for one in before[name]} <= {one.key for one in after[name]}


def test_a_larger_test_share_keeps_the_old_test_set() -> None:
    records = [record(f"prompt {n}", "reply") for n in range(500)]
    small, large = deal(records, RULE), deal(records, Split(validation=0.1, test=0.3))
    assert {one.key for one in small["test"]} <= {one.key for one in large["test"]}


def test_replies_of_a_held_out_prompt_become_references() -> None:
    records = [record(f"prompt {n}", f"reply {m}", key=f"k{n // 2}") for n in range(100) for m in range(3)]
    parts = deal(records, RULE)
    for one in [*parts["validation"], *parts["test"]]:
        assert one.references == ["reply 0", "reply 1", "reply 2"] and one.completion == "reply 0"
        assert len(one.origin["rows"]) == 3
    assert all(not one.references for one in parts["train"])
    assert sum(len(one.origin.get("rows", [one])) for part in parts.values() for one in part) == len(records)


def test_leaks_by_key_prompt_and_whole_conversation_are_counted() -> None:
    seen = [record("What is it?", "A cat.", key="one")]
    assert leaks([record("other", "A dog.", key="one")], seen) == 1
    assert leaks([record("what is it", "A dog.", key="two")], seen) == 1
    assert leaks([record("What is", "it? A cat.", key="three")], seen) == 1
    assert leaks([record("Who is it?", "A cat.", key="four")], seen) == 0


def prepared(project: Path, **rule: float) -> None:
    config = load(project).data
    for stage in (fetch, clean, assess):
        stage(project, config)
    split(project, config.model_copy(update={"split": config.split.model_copy(update=rule)}))


def test_an_empty_test_split_says_what_to_do(project: Path) -> None:
    with pytest.raises(DataError, match=r"The test split is empty .*60 keys.*larger share"):
        prepared(project, test=1e-9)
    assert not (project / "data/splits").exists()


def test_the_card_tells_counts_and_shows_charts(project: Path) -> None:
    prepared(project, test=0.2, validation=0.2)
    card = (project / "data/reports/card.md").read_text()
    assert "| **raw rows** | **60** |" in card
    for name in ("fate.png", "bias.png", "split.png"):
        assert f"]({name})" in card and (project / "data/reports" / name).read_bytes().startswith(b"\x89PNG")
    assert len(read_records(project / "data/splits/test.jsonl")) > 0
