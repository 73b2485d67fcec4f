from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forgeline.config import load
from forgeline.config.schema import Clean, NearDuplicates, Rule
from forgeline.data import table
from forgeline.data.clean import clean, clean_into
from forgeline.data.layout import CACHE, KEPT, QUARANTINE, RAW
from forgeline.errors import DataError

Row = dict[str, Any]
Run = Callable[..., tuple[list[Row], list[Row], dict[str, Any]]]
RULES = {"too_short": Rule(measure="chars", min=2), "too_long": Rule(measure="chars", over="conversation", max=600)}


def row(number: int | str, prompt: str, reply: str, key: str | None = None, **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    origin = {"source": "here", "line": number}
    return {"id": f"r{number}", "key": key or f"k{number}", "messages": turns, "origin": origin, **more}


def read(root: Path, folder: str) -> list[Row]:
    return [one for part in sorted((root / folder).rglob("*.parquet")) for one in table.to_rows(table.read(part))]


@pytest.fixture(scope="module")
def run_clean(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Clean rows, dealt into parts of a size, in a project of their own; return kept, removed and report."""
    root = tmp_path_factory.mktemp("clean")
    shipped = load(Path(__file__).parents[2]).data

    def run(rows: Iterable[Row], rules: Clean, part: int = 50, **more: Any) -> tuple[list[Row], list[Row], Row]:
        for name in (RAW, KEPT, QUARANTINE, CACHE):
            shutil.rmtree(root / name, ignore_errors=True)
        rows = list(rows)
        for start in range(0, len(rows), part):
            table.write(root / RAW / f"here/{start:05d}.parquet", table.from_rows(rows[start : start + part]))
        config = shipped.model_copy(update={"clean": rules, "workers": 1, **more})
        report = clean_into((root / KEPT).parent, root, config)
        return read(root, KEPT), read(root, QUARANTINE), report

    return run


def texts(row: Row) -> tuple[str, ...]:
    return tuple(turn["content"] for turn in row["messages"])


def test_every_row_is_kept_quarantined_or_merged(run_clean: Run) -> None:
    rows = [
        row(0, "hi", "Hello , you !"),
        row(1, "hi", "hello, you"),
        row(2, "hi", "Good day."),
        row(3, "hi", "Good evening."),
        row(4, "a", "  "),
        row(5, "a", "x"),
        row(6, "a", "y" * 700),
        row(7, "c", "One answer."),
        row(7, "d", "An id that is taken."),
        {"id": "r9", "key": "k9", "raw": "{broken 01223315702", "fault": "line 9: not JSON"},
    ]
    kept, removed, report = run_clean(rows, Clean(rules=RULES, max_references=2))
    assert report["rows"] == {"in": 10, "kept": 3, "quarantined": 6, "merged": 1}
    fates = ("duplicate_id", "empty", "malformed", "over_reference_cap", "too_long", "too_short")
    assert report["reasons"] == dict.fromkeys(fates, 1)
    by_rule = {one["rule"]: one for one in removed}
    assert len(kept) + len(removed) == len(rows)
    assert by_rule["too_short"]["score"] == 1 and "below 2" in by_rule["too_short"]["detail"]
    assert by_rule["malformed"]["raw"] == "{broken [PHONE]" and by_rule["malformed"]["detail"] == "line 9: not JSON"
    assert by_rule["normalised_duplicate"]["duplicate_of"] == "r0"


def test_the_best_copy_stays_and_inherits_references(run_clean: Run) -> None:
    long = "Your table at the Golden Wok is booked for two people on Friday evening at seven o'clock"
    rows = [
        row(1, "book it", long),
        row(2, "book it", long, references=["Done."]),
        row(3, "book it", long.upper() + "!"),
        row(4, "book it", f"{long}, thank you", references=["All set."]),
        row(5, "book it", "No table is free."),
    ]
    [kept, other], removed, report = sorted_run(run_clean(rows, Clean(near_duplicates=NearDuplicates())))
    assert report["duplicates"] == {"exact": 1, "normalised": 1, "near": 1} and other["id"] == "r5"
    assert kept["id"] == "r4" and kept["references"] == [f"{long}, thank you", "All set.", "Done.", long]
    assert kept["origin"]["merged"] == 3
    assert {one["duplicate_of"] for one in removed} == {"r4"}
    near = next(one for one in removed if one["rule"] == "near_duplicate")
    assert 0.85 <= near["score"] < 1 and near["detail"].startswith("similarity 0.")


def sorted_run(outcome: tuple[list[Row], list[Row], Row]) -> tuple[list[Row], list[Row], Row]:
    kept, removed, report = outcome
    return sorted(kept, key=lambda one: str(one["id"])), removed, report


def test_rows_of_plain_text_are_not_replies_to_one_prompt(run_clean: Run) -> None:
    rows = [{**row(n, "", ""), "messages": [{"role": "assistant", "content": f"Text number {n}."}]} for n in range(9)]
    kept, _, _ = run_clean([*rows, {**rows[3], "id": "copy"}], Clean(max_references=2))
    assert len(kept) == 9


def test_nothing_personal_is_left_in_what_is_kept(run_clean: Run) -> None:
    secret = {"references": ["Ring 01223315702."], "subject": "a@b.org", "groups": {"who": "a@b.org"}}
    rows = [row(0, "hi", "Write to a@b.org.", key="a@b.org", rejected="No, to a@b.org.", **secret)]
    rows[0]["origin"]["fields"] = {"mail": "a@b.org"}
    [kept], _, report = run_clean(rows, Clean())
    assert "a@b.org" not in str(kept) and kept["references"] == ["Ring [PHONE]."]
    assert report["masked"] == {"email": 2, "phone": 1} and report["unmasked_pii"] == 0


def test_people_have_the_last_word(run_clean: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from forgeline.data.review import Decision

    when = "2026-11-23T08:00:00+00:00"
    decided = {
        "r1": Decision(id="r1", verdict="keep", who="ana", when=when),
        "r2": Decision(id="r2", verdict="drop", who="ana", when=when),
        "r3": Decision(id="r3", verdict="edit", completion="Better .", who="ana", when=when),
    }
    monkeypatch.setattr("forgeline.data.mend.decisions", lambda _: decided)
    rows = [row(1, "p", "x"), row(2, "q", "xx"), row(3, "r", "xxx"), *(row(n, "p", f"reply {n}") for n in range(4, 9))]
    kept, removed, _ = run_clean(rows, Clean(rules=RULES, max_references=1))
    assert {one["id"]: texts(one)[1] for one in kept} == {"r1": "x", "r3": "Better."}
    dropped = next(one for one in removed if one["id"] == "r2")
    assert dropped["rule"] == "reviewer" and "ana" in dropped["detail"]


def test_a_dry_rule_counts_and_removes_nothing(run_clean: Run) -> None:
    rules = {"too_short": Rule(measure="chars", min=9, dry_run=True)}
    kept, _, report = run_clean([row(1, "p", "short"), row(2, "q", "long enough")], Clean(rules=rules))
    assert len(kept) == 2 and report["dry"] == {"too_short": 1}


def test_a_tag_is_judged_as_a_word(run_clean: Run) -> None:
    rules = {"shouting": Rule(measure="capitals", max=0.7), "signs": Rule(measure="symbols", max=0.2)}
    [kept], _, _ = run_clean([row(1, "Phone?", "It's 01223315702.")], Clean(rules=rules))
    assert texts(kept)[1] == "It's [PHONE]."


def test_no_row_left_says_why_and_leaves_what_was_there(run_clean: Run, tmp_path: Path) -> None:
    rules = {"too_short": Rule(measure="chars", min=500)}
    with pytest.raises(DataError, match=r"left none of 3 rows \(too_short 3\)"):
        run_clean([row(n, f"p{n}", "short") for n in range(3)], Clean(rules=rules))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / RAW).mkdir(parents=True)
    (tmp_path / RAW / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        clean(tmp_path, load(Path(__file__).parents[2]).data)


WORDS = st.sampled_from(
    ["Hello", "hello", "there", "sir", ",", "!", "I ' m", "caf\u00e9", "a@b.org", "\t", "x", "\u00c2\u00a3"]
)
TEXT = st.lists(WORDS, max_size=8).map(" ".join)
ROWS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 9)), min_size=1, max_size=25)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STRICT = Clean(rules=RULES, near_duplicates=NearDuplicates(threshold=0.6), max_references=2)


def made(drawn: list[tuple[str, str, int]]) -> list[Row]:
    valid = row("v", "a valid question", "a valid answer")
    return [*(row(n, prompt, reply, f"k{n}", id=f"i{name}") for n, (prompt, reply, name) in enumerate(drawn)), valid]


@FEW
@given(ROWS)
def test_rows_are_conserved_and_cleaning_twice_changes_nothing(run_clean: Run, drawn: list[Any]) -> None:
    rows = made(drawn)
    kept, removed, report = run_clean(rows, STRICT)
    assert len(kept) + len(removed) == len(rows) == report["rows"]["in"]
    merged = [one for one in removed if one["rule"].endswith("_duplicate")]
    assert len(merged) == report["rows"]["merged"]
    assert {one.get("duplicate_of") for one in removed} - {None} == {one["duplicate_of"] for one in merged}
    assert {one["duplicate_of"] for one in merged} <= {one["id"] for one in kept}
    again, nothing, _ = run_clean(kept, STRICT)
    assert again == kept and not nothing


@FEW
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_and_the_parts_of_rows_change_nothing(
    run_clean: Run, drawn: list[Any], chance: random.Random
) -> None:
    rows = made(drawn)
    outcomes = []
    for _ in range(2):
        kept, removed, report = run_clean(rows, STRICT, part=chance.randint(2, 30))
        outcomes.append((sorted(map(table.to_json, kept)), sorted(map(table.to_json, removed)), report))
        chance.shuffle(rows)
    assert outcomes[0] == outcomes[1]


def test_the_number_of_workers_changes_no_byte(run_clean: Run) -> None:
    rows = [row(n, f"question {n % 40}", f"an answer of some words, number {n % 90}") for n in range(300)]
    rules = Clean(near_duplicates=NearDuplicates())
    assert run_clean(rows, rules, part=30, workers=1) == run_clean(rows, rules, part=30, workers=2)
