from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from forgeline.cli import app
from forgeline.config.schema import Assess, Data, Fetch, Mitigate, NearDuplicates, Source, Split
from forgeline.data import charts, table
from forgeline.data.layout import FROZEN, KEPT, NAMES, SPLITS
from forgeline.data.split import split_rows
from forgeline.data.splits.contamination import Seen, measure
from forgeline.data.splits.deal import TEST, TRAIN, deal
from forgeline.data.splits.frozen import freeze
from forgeline.data.splits.index import build
from forgeline.data.splits.keys import Scan, components, scan
from forgeline.errors import DataError
from forgeline.records import read_jsonl, read_records

Row = dict[str, Any]
WORDS = [f"{head}{tail}" for head in ("amb", "bir", "ced", "dun") for tail in ("er", "ch", "ar", "en")]


def row(prompt: str, reply: str, key: str | None = None, source: str = "here", **more: Any) -> Row:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"id": f"{prompt}-{reply}", "messages": turns, "key": key or prompt, "source": source, **more}


def text(number: int) -> str:
    """Return 16 words in an order that few other numbers share."""
    return " ".join(sorted(WORDS, key=lambda word: hashlib.sha256(f"{number}{word}".encode()).digest()))


def configured(sources: dict[str, float | None] | None = None, **rule: Any) -> Data:
    named = {name: Source(uri=["x"], weight=weight) for name, weight in (sources or {"here": None}).items()}
    given_rule = Split(**{"validation": 0.2, "test": 0.2, **rule})
    return Data(fetch=Fetch(sources=named), assess=Assess(groups={}, associations={}), split=given_rule, workers=1)


def run(root: Path, rows: list[Row], config: Data | None = None, parts: int = 1) -> dict[str, Any]:
    """Split rows, given as that many parts a source, and return the report."""
    for old in (root / KEPT).rglob("*.parquet"):
        old.unlink()
    for source in sorted({one["source"] for one in rows}):
        own = [one for one in rows if one["source"] == source]
        for number in range(parts):
            table.write(root / KEPT / source / f"p-{number:05}.parquet", table.from_rows(own[number::parts]))
    return split_rows(root, config or configured())[0]


def keys(root: Path, name: str) -> set[str]:
    """Return the keys of a split; of a held-out one, those that its rows had."""
    records = list(read_jsonl(root / SPLITS[name]))
    return {key for one in records for key in [one["key"], *one["origin"].get("keys", [])]}


def split_by_id(root: Path) -> dict[str, str]:
    return {
        name: split
        for split in NAMES
        for one in read_jsonl(root / SPLITS[split])
        for name in one["origin"].get("rows", [one["id"]])
    }


# Rows of 60 keys and prompts, and some that join them.
BASE = [row(f"prompt {n}", f"reply {n}", f"key {n}") for n in range(60)]
JOINS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=8)
PROPERTY = settings(
    max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def joined(pairs: list[tuple[int, int]]) -> list[Row]:
    return [row(f"prompt {p}", f"joined {k} {p}", f"key {k}") for k, p in dict.fromkeys(pairs)]


def fate_of_keys(root: Path, rows: list[Row]) -> dict[str, int]:
    """Return what each key is dealt to, by the code of `deal`."""
    table.write(root / "part.parquet", table.from_rows(rows))
    numpy.save(root / "frozen.npy", numpy.zeros(0, numpy.uint64))
    scan(Scan(root / "part.parquet", root / "scan", configured().split, root / "frozen.npy"))
    dealt, links = numpy.load(root / "scan.rows.npy"), numpy.load(root / "scan.links.npy")
    fates, _ = deal(dealt, components(dealt, links), configured().split, {})
    by_key = {one["key"]: int(fate) for one, fate in zip(rows, fates, strict=True)}
    assert all(by_key[one["key"]] == fate for one, fate in zip(rows, fates, strict=True))
    return by_key


@settings(PROPERTY, max_examples=40)
@given(old=JOINS, new=JOINS)
def test_no_key_leaves_test_when_rows_are_added(tmp_path: Path, old: list[Any], new: list[Any]) -> None:
    before = fate_of_keys(tmp_path, BASE + joined(old))
    after = fate_of_keys(tmp_path, joined([*new, *old]) + BASE + [row(f"new {n}", "x") for n in range(20)])
    assert TEST in before.values() and TRAIN in before.values()
    assert all(after[key] == TEST for key, fate in before.items() if fate == TEST)
    assert all(after[key] != TRAIN for key, fate in before.items() if fate != TRAIN)


@PROPERTY
@given(pairs=JOINS, data=st.data(), parts=st.integers(1, 3), weights=st.tuples(*[st.floats(0.1, 9)] * 2))
def test_every_row_has_one_fate_whatever_the_order(
    tmp_path: Path, pairs: list[Any], data: st.DataObject, parts: int, weights: tuple[float, float]
) -> None:
    rows = BASE + joined(pairs)
    rows = [{**one, "source": "ab"[n % 2]} for n, one in enumerate(rows)]
    (tmp_path / "data/benchmarks").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": f"Prompt {n}!", "completion": "x"}) for n in range(0, 60, 7)]
    (tmp_path / "data/benchmarks/b.jsonl").write_text("\n".join(lines))
    config = configured({"a": weights[0], "b": weights[1]}, benchmarks={"b": "b.jsonl"})
    first = run(tmp_path, rows, config)
    fates, test = split_by_id(tmp_path), (tmp_path / SPLITS["test"]).read_bytes()
    dealt = first["dealt"]
    assert sum(dealt.values()) == len(rows) and dealt["left_out"] == sum(first["left_out_by_mix"].values())
    assert Counter(fates.values()) == {name: dealt[name] for name in NAMES}
    assert first["test_leakage"] == first["validation_leakage"] == 0
    assert run(tmp_path, data.draw(st.permutations(rows)), config, parts) == first
    assert split_by_id(tmp_path) == fates and (tmp_path / SPLITS["test"]).read_bytes() == test


def test_shares_are_met_and_a_larger_share_keeps_the_old_test_set(tmp_path: Path) -> None:
    rows = [row(f"prompt {n}", "reply") for n in range(1500)]
    report = run(tmp_path, rows, configured(test=0.2))
    small = keys(tmp_path, "test")
    assert report["rows"]["test"] / 1500 == pytest.approx(0.2, abs=0.03)
    run(tmp_path, rows, configured(test=0.3))
    assert small < keys(tmp_path, "test")


def test_rows_with_one_prompt_share_a_key_and_a_split(tmp_path: Path) -> None:
    pairs = [
        one
        for n in range(30)
        for one in (
            row(f"phone {n}: [PHONE]", "One.", f"a{n}", id=f"{n}.0"),
            row(f"Phone {n}:  [phone]!", "Two.", f"b{n}", id=f"{n}.1"),
            row(f"x {n}", "three", f"b{n}", id=f"{n}.2"),
        )
    ]
    run(tmp_path, pairs)
    fates = split_by_id(tmp_path)
    assert all(len({fates[f"{n}.{m}"] for m in range(3)}) == 1 for n in range(30))
    named = {one.id: one.key for one in read_records(tmp_path / SPLITS["train"])}
    assert all(named[f"{n}.0"] == named[f"{n}.2"] in {f"a{n}", f"b{n}"} for n in range(30) if f"{n}.0" in named)


def test_replies_of_a_held_out_prompt_become_references_unless_disliked(tmp_path: Path) -> None:
    rows = [
        row(f"prompt {n}", f"reply {m}", f"k{n // 2}", subject=f"s{m}", label=None if m == 0 else m == 2)
        for n in range(100)
        for m in range(3)
    ]
    report = run(tmp_path, rows)
    for one in [*read_records(tmp_path / SPLITS["validation"]), *read_records(tmp_path / SPLITS["test"])]:
        assert sorted(one.references) == ["reply 0", "reply 2"] and one.completion == one.references[0]
        assert len(one.origin["rows"]) == 3 and one.origin["subjects"] == ["s0", "s1", "s2"]
    assert not any(one.references for one in read_records(tmp_path / SPLITS["train"]))
    assert report["test_references"] == {"2": report["rows"]["test"]}


def test_each_stratum_has_its_share(tmp_path: Path) -> None:
    rows = [row(f"p {n}", "r", groups={"domain": "rare" if n < 40 else "common"}) for n in range(400)]
    report = run(tmp_path, rows, configured(strategy="stratified", by="domain", test=0.1, validation=0.05))
    assert report["strata"] == {
        "common": {"train": 306, "validation": 18, "test": 36},
        "rare": {"train": 34, "validation": 2, "test": 4},
    }


def test_time_divides_and_no_prompt_straddles(tmp_path: Path) -> None:
    days = [f"2026-01-{n + 1:02}" for n in range(30)]
    rows = [row(f"p {n}", "r", time=day) for n, day in enumerate(days)]
    rows.append(row("p 3", "asked again", time="2026-01-29T12:00:00+02:00"))
    rule = configured(strategy="temporal", validation_from="2026-01-21", test_from="2026-01-26")
    report = run(tmp_path, rows, rule)
    assert report["dealt"] == {"train": 19, "validation": 5, "test": 7, "decontaminated": 0, "left_out": 0}
    assert report["straddling_rows"] == 1 and "p 3" in keys(tmp_path, "test")
    with pytest.raises(DataError, match=r"2 of 33 rows have no time.*fetch\.sources"):
        run(tmp_path, [*rows, row("p", "r", time="soon"), row("q", "r")], rule)


def test_a_frozen_key_is_a_test_key_under_any_rule(tmp_path: Path) -> None:
    rows = [row(f"prompt {n}", "reply", f"k{n}", groups={"g": "x"}, time="2026-01-01") for n in range(100)]
    rows += [row(f"prompt {n}", "same prompt", f"other {n}", groups={"g": "x"}, time="2026-01-01") for n in range(50)]
    rows += [row("late", "r", time="2027-01-01", groups={"g": "x"}), row("v", "r", time="2026-06-01")]
    run(tmp_path, rows)
    frozen = keys(tmp_path, "test")
    count, added = freeze(tmp_path)
    assert count == added == len(frozen) and any(key.startswith("other") for key in frozen)
    lines = (tmp_path / FROZEN).read_text().splitlines()
    assert lines == sorted(hashlib.sha256(key.encode()).hexdigest() for key in frozen)
    assert freeze(tmp_path) == (count, 0)
    for rule in (
        {"seed": 99, "test": 0.01},
        {"strategy": "stratified", "by": "g", "test": 0.05},
        {"strategy": "temporal", "validation_from": "2026-05-01", "test_from": "2026-12-01"},
    ):
        report = run(tmp_path, rows, configured(**rule))
        assert frozen <= keys(tmp_path, "test") and report["frozen"]["keys"] == count
    (tmp_path / FROZEN).write_text(f"{lines[0]}\nnonsense\n")
    with pytest.raises(DataError, match=r"test_keys\.txt, line 2 is not the sha256"):
        run(tmp_path, rows)


def test_freezing_is_said_in_the_ledger_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, BASE)
    monkeypatch.chdir(project)
    for added in (len(keys(project, "test")), 0):
        done = CliRunner().invoke(app, ["data", "freeze", "--reason", "first release", "--json"])
        assert json.loads(done.stdout)["added"] == added
    [entry] = read_jsonl(project / "ledger.jsonl")
    assert entry["action"] == "test set frozen" and entry["facts"]["reason"] == "first release"


def found(root: Path, held_out: list[Row], seen: list[Row]) -> dict[str, Any]:
    """Return what rows have in common with a held-out set."""
    config, near = configured(), NearDuplicates()
    table.write(root / "held.parquet", table.from_rows(held_out))
    table.write(root / "seen.parquet", table.from_rows(seen))
    held = build("test", [root / "held.parquet"], root / "index", near, config)
    return measure([Seen(root / "seen.parquet", [held], near, root / "met")], [held], config)["test"]


def test_leaks_are_told_apart_by_kind(tmp_path: Path) -> None:
    seen = [row("What is it?", "A cat.", "one"), *(row(f"Tell {n}", text(n), f"k{n}") for n in range(50))]
    near = text(7).replace("amber", "ambers")
    report = found(
        tmp_path,
        [
            row("other", "A dog.", "one"),
            row("what is it", "A dog.", "two"),
            row("What is", "it? A cat.", "three"),
            row("Who is it?", "A cat.", "four"),
            row("tell 7", near, "five"),
            row("Say", f"{text(9)} and then something else entirely that nobody has said here before", "six"),
        ],
        seen,
    )
    kinds = {kind: report[kind] for kind in ("key", "prompt", "conversation", "near_duplicate", "reply", "leaks")}
    assert kinds == {"key": 1, "prompt": 2, "conversation": 1, "near_duplicate": 1, "reply": 1, "leaks": 4}
    assert report["examples"]["near_duplicate"][0]["row"] == seen[8]["id"]
    assert report["ngrams"]["words"] == 8 and report["ngrams"]["long_enough"] == 2
    assert report["ngrams"]["records"] == report["ngrams"]["records_unusual"] == 2
    assert all(one["words"] in f"tell 7 {text(7)} say {text(9)}" for one in report["ngrams"]["examples"])


def test_a_set_phrase_is_an_overlap_but_no_unusual_one(tmp_path: Path) -> None:
    phrase = "thank you for your call and please stay on the line for our short survey"
    report = found(tmp_path, [row("bye", f"{phrase} b")], [row(f"p{n}", f"{phrase} {n}") for n in range(20)])
    assert report["ngrams"]["records"] == 1 and report["ngrams"]["records_unusual"] == 0
    assert "Formulaic text shares many" in report["ngrams"]["finding"]


def benchmarked(root: Path, name: str, lines: str) -> None:
    path = root / "data/benchmarks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")


def test_training_rows_that_repeat_a_benchmark_are_left_out(tmp_path: Path) -> None:
    rows = [row(f"Question {n}?", text(n), f"k{n}") for n in range(80)]
    changed = [text(n).replace("amber", "ambers") for n in range(20, 40)]
    benchmarked(tmp_path, "same.csv", "prompt,completion\n" + "".join(f"question {n},x\n" for n in range(20)))
    lines = [json.dumps({"prompt": f"question {n}!", "completion": t}) for n, t in enumerate(changed, start=1020)]
    near = [{"text": f"question {n} {t}"} for n, t in enumerate(changed, start=20)]
    benchmarked(tmp_path, "near.jsonl", "\n".join(map(json.dumps, near)))
    benchmarked(tmp_path, "far.jsonl", "\n".join(lines))
    named = {"same": "same.csv", "near": "near.jsonl", "far": "far.jsonl"}
    rule: dict[str, Any] = {"near_duplicates": {"threshold": 0.85, "bands": 40, "rows": 4}}
    report = run(tmp_path, rows, configured(benchmarks=named, **rule))
    hits = {name: one["rows"] for name, one in report["benchmarks"].items()}
    alike = {split: name for name, split in split_by_id(tmp_path).items()}
    assert alike
    assert hits["same"]["prompt"] > 5 and hits["same"]["near_duplicate"] == 0
    assert hits["near"]["near_duplicate"] > 5 and hits["near"]["prompt"] == 0
    assert hits["near"]["near_duplicate"] + hits["same"]["prompt"] <= report["dealt"]["decontaminated"]
    left = {one.messages[0].content for one in read_records(tmp_path / SPLITS["train"])}
    assert not left & {f"Question {n}?" for n in range(40)}
    kept = run(tmp_path, rows, configured(benchmarks=named, decontaminate=False, **rule))
    assert kept["dealt"]["decontaminated"] == 0 and kept["benchmarks"] == report["benchmarks"]


def test_a_benchmark_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data/benchmarks/no\.jsonl does not exist"):
        run(tmp_path, BASE, configured(benchmarks={"b": "no.jsonl"}))


def test_sources_stand_as_their_weights_in_every_beginning(tmp_path: Path) -> None:
    rows = [
        row(f"{source} {n}", "r", source=source) for source, n in (("a", 0), ("b", 0), ("c", 0)) for n in range(400)
    ]
    report = run(tmp_path, rows, configured({"a": 6, "b": 3, "c": 1}, validation=0.1, test=0.1), parts=2)
    train = [one.source for one in read_records(tmp_path / SPLITS["train"])]
    whole = Counter(train)
    assert report["left_out_by_mix"]["a"] == 0 and whole["b"] == whole["a"] // 2 and whole["c"] == whole["a"] // 6
    for size in (20, 50, 200):
        beginning = Counter(train[:size])
        assert all(abs(beginning[name] - size * share) <= 1.5 for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)))


def test_a_mitigated_row_that_says_what_a_held_out_one_says_is_left_out(tmp_path: Path) -> None:
    rows = [row(f"Is {who} number {n}?", "Yes.", f"{who} {n}") for n in range(60) for who in ("he", "she")]
    words = {"gender": {"female": ["she"], "male": ["he"]}}
    assess = Assess(groups=words, associations={}, counterparts={"gender": [{"female": "she", "male": "he"}]})
    config = configured().model_copy(update={"assess": assess, "mitigate": Mitigate(augment=["gender"])})
    report = run(tmp_path, rows, config)
    train, held_out = (
        {one.messages[0].content for name in names for one in read_records(tmp_path / SPLITS[name])}
        for names in (NAMES[:1], NAMES[1:])
    )
    left_out = report["mitigation"]["left_out_as_leaks"]
    assert left_out > 0 and not train & held_out
    assert report["rows"]["train"] == report["mitigation"]["rows"]["after"] - left_out


def test_weights_are_of_all_sources_or_of_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="b needs one too"):
        configured({"a": 1.0, "b": None})
    with pytest.raises(DataError, match="No training row comes from b"):
        run(tmp_path, [{**one, "source": "a"} for one in BASE], configured({"a": 1, "b": 1}))


def test_a_strategy_and_its_keys_go_together() -> None:
    for rule in ({"strategy": "stratified"}, {"by": "x"}, {"strategy": "temporal", "test_from": "2026-01-01"}):
        with pytest.raises(ValueError, match="go together"):
            Split(**rule)
    with pytest.raises(ValueError, match="must be before"):
        Split(strategy="temporal", validation_from="2026-02-01T00:00:00Z", test_from="2026-01-01")


def test_the_charts_bin_every_record_and_repeat(tmp_path: Path) -> None:
    lengths = {name: Counter({35: 990 + n, 120: 9, 90_000: 1}) for n, name in enumerate(NAMES)}
    for folder in (tmp_path / "one", tmp_path / "two"):
        charts.splits(folder, lengths, Counter({1: 4, 3: 2}))
        assert (folder / "references.csv").read_text().splitlines() == ["references,prompts", "1,4", "3,2"]
    with (tmp_path / "one/lengths.csv").open() as file:
        bins = list(csv.DictReader(file))
    assert max(int(one["characters"]) for one in bins) < 90_000
    for name in NAMES:
        assert sum(float(one["share"]) for one in bins if one["split"] == name) == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "one/split.png").read_bytes() == (tmp_path / "two/split.png").read_bytes()


def test_an_empty_split_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The test split is empty .*60 keys.*larger share"):
        run(tmp_path, BASE, configured(test=1e-9))
    assert not (tmp_path / "data/splits").exists() and not (tmp_path / ".forgeline/data/split").exists()
