"""Sheets that go out blind, and verdicts that come back."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, sheets, verdicts
from forgeline.evaluation.agreement import agreement, krippendorff
from forgeline.evaluation.report import Row

CHROMIUM = shutil.which("chromium")
EVIL = "</script><script>alert(1)</script> =1+1"
HEADINGS = ["sheet", "row", "rater", "verdict"]


def report(name: str, replies: list[str], digest: str = "prompts") -> Report:
    rows = [
        Row(id=str(n), prompt=f"ask {n}", references=["yes"], reply=reply, tokens=2, stopped=True, groups={})
        for n, reply in enumerate(replies)
    ]
    return Report(
        model=name, at="2026-11-01T00:00:00+00:00", test_digest=digest, vocabulary="v", signature="s", settings={},
        metrics={}, not_measured={}, seconds={}, rows=rows, statistics={},
    )  # fmt: skip


def rated(name: str, replies: list[str], version: int | None = None, digest: str = "prompts"):
    return sheets.Rated(name=name, version=version, data_digest="data"), report(name, replies, digest)


def pair(rows: int = 20, same: int = 0) -> sheets.Key:
    """A sheet of two models, challenger and champion, that answer `same` of the prompts in the same words."""
    new = [f"new {n}" if n >= same else "both" for n in range(rows)]
    old = [f"old {n}" if n >= same else "both" for n in range(rows)]
    return sheets.make([rated("challenger", new), rated("champion", old)], rows, seed=1)


def filled(path: Path, key: sheets.Key, choices: dict[str, str], rater: str = "") -> Path:
    """Write the choice of a model (0, 1), a tie or bad for each row as a person's file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADINGS)
        for row, choice in choices.items():
            place = [str(n + 1) for n, models in enumerate(key.lines[row].models) if choice in map(str, models)]
            writer.writerow([key.digest, row, rater, place[0] if place else choice])
    return path


def test_alpha_is_that_of_the_published_example():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[value for value in column if value != "."] for column in zip(*observers, strict=True)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)
    # The same text, example A: two observers, ten units, two values.
    assert krippendorff([*zip("0100000010", "1110010000", strict=True)]) == pytest.approx(0.095, abs=5e-4)
    found = agreement({str(place): unit for place, unit in enumerate(units)}, samples=500, confidence=0.95, seed=1)
    assert found is not None and found.n == 11 and found.low < 0.743 < found.high <= 1


def test_alpha_says_nothing_where_nothing_can_be_said():
    assert krippendorff([]) is None
    assert krippendorff([["a"], ["b"]]) is None  # nobody judged the same
    assert krippendorff([["a", "a"], ["a", "a"]]) is None  # chance would agree as well
    assert krippendorff([["a", "a"], ["b", "b"]]) == 1


def test_a_sheet_hides_whose_reply_is_whose(tmp_path: Path):
    key = pair(same=3)
    page, table, secret = sheets.export(key, tmp_path / "sheet")
    assert not re.search("challenger|champion", page.read_text() + table.read_text())
    assert len(key.lines) == 17 and key.alike == 3
    assert [line.id for line in key.lines.values()] != sorted((line.id for line in key.lines.values()), key=int)
    assert {tuple(map(tuple, line.models)) for line in key.lines.values()} == {((0,), (1,)), ((1,), (0,))}
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    shown = json.loads(re.search(r'id="sheet">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    assert [row["reply_1"] for row in rows] == [row["replies"][0] for row in shown["rows"]]
    assert sheets.Key.read(tmp_path / "sheet") == key and secret.name == "key.json"
    assert pair(same=3) == key  # the same seed gives the same sheet
    with pytest.raises(EvaluationError, match="holds a sheet already"):
        sheets.export(key, tmp_path / "sheet")


def test_the_page_needs_nothing_and_runs_only_its_own_script(tmp_path: Path):
    key = sheets.make([rated("a", [EVIL]), rated("b", ["=2+2"])], 1, seed=1)
    page, table, _ = sheets.export(key, tmp_path)
    html = page.read_text()
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert "alert(1)" in html  # as data
    assert "default-src 'none'" in html and re.search(r"script-src 'sha256-[\w+/=]{44}'", html)
    assert not re.search(r"https?://|src=|@import|url\(", html)
    assert "'=2+2" in table.read_text()  # no formula


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_person_can_choose_with_the_keyboard_and_take_the_choices_away(tmp_path: Path):
    key = pair(rows=3)
    page, _, _ = sheets.export(key, tmp_path / "sheet")
    # Somebody who was here before: row 1 is judged already. Then keys, a note and a name, and the download.
    before = f"""localStorage.setItem("forgeline-sheet-{key.digest}", JSON.stringify({{
      rater: "", row: 1, choices: {{ "1": "tie" }}, notes: {{}} }}));"""
    drive = """
    const said = [], press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const see = () => said.push(at("row").textContent + ", " + at("done").textContent);
    const type = (id, text) => { at(id).value = text; at(id).dispatchEvent(new Event("input")); };
    HTMLAnchorElement.prototype.click = function () { said.push(this.download); };
    URL.createObjectURL = (blob) => { blob.text().then((text) => {
      document.body.replaceChildren(Object.assign(document.createElement("pre"), { textContent:
        JSON.stringify([said, text, Boolean(localStorage.getItem(key))]) })); }); return "#"; };
    see(); type("note", 'a "good", one'); press("2"); see(); press("0"); see(); press("ArrowLeft");
    const pressed = [...document.querySelectorAll('[aria-pressed="true"]')].map((one) => one.textContent);
    said.push(pressed.join()); type("rater", "Anna O'Neil"); at("save").click();"""
    html = page.read_text()
    for script in (before, drive):  # allowed by their digests, as the page's own is
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        html = html.replace("script-src ", f"script-src 'sha256-{digest}' ")
    html = html.replace("<header>", f"<script>{before}</script><header>", 1)
    page.write_text(html.replace("</body>", f"<script>{drive}</script></body>"))
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}/profile"]
    seen = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    said, table, kept = json.loads(unescape(re.search(r"<pre>(.*?)</pre>", seen, re.DOTALL)[1]))
    assert said == [
        *("Row 2 of 3, 1 judged", "Row 3 of 3, 2 judged", "Row 3 of 3, All judged: download your choices"),
        *("2Reply 2 is better", "verdicts-Anna-O-Neil.csv"),
    ]
    assert kept
    path = tmp_path / "back.csv"
    path.write_text(table, encoding="utf-8")
    found = {verdict.row: verdict.best for verdict in verdicts.read(key, [path])}
    assert found == {"1": {0, 1}, "2": set(key.lines["2"].models[1]), "3": set()}
    assert "Anna O'Neil" in table and '"a ""good"", one"' in table


def test_replies_in_the_same_words_stand_once_and_share_the_win(tmp_path: Path):
    key = sheets.make([rated("a", ["x"]), rated("b", ["y"]), rated("c", [" x "])], 5, seed=1)
    (line,) = key.lines.values()
    assert sorted(line.replies) == ["x", "y"]
    path = filled(tmp_path / "anna.csv", key, {"1": "0"})
    judged = verdicts.count(key, verdicts.read(key, [path]), samples=100, confidence=0.95, seed=1)
    assert {name: win.value for name, win in judged.wins.items()} == {"b": 1, "c": 0.5}


def test_verdicts_are_counted_with_ties_as_halves(tmp_path: Path):
    key = pair(rows=20, same=4)
    rows = [*key.lines]
    anna = dict.fromkeys(rows[:10], "0") | dict.fromkeys(rows[10:12], "1") | {rows[12]: "tie", rows[13]: "bad"}
    ben = dict.fromkeys(rows[:9], "0") | {rows[9]: "1"}
    paths = [filled(tmp_path / "anna.csv", key, anna), filled(tmp_path / "b.csv", key, ben, rater="Ben")]
    judged = verdicts.count(key, verdicts.read(key, paths), samples=1000, confidence=0.95, seed=1)
    assert judged.raters == {"anna": 14, "Ben": 10}
    win = judged.wins["champion"]
    # Nine whole wins, one that they split, two losses, two ties, and four prompts that both answered alike.
    assert win.n == 18 and win.value == pytest.approx((9 + 0.5 + 0 + 1 + 2) / 18)
    assert win.low < win.value < win.high
    assert judged.agreement is not None and judged.agreement.n == 10
    one = verdicts.count(key, verdicts.read(key, paths[:1]), samples=100, confidence=0.95, seed=1)
    assert one.agreement is None


def test_a_verdict_for_a_third_model_says_nothing_of_the_other_two(tmp_path: Path):
    key = sheets.make([rated(name, [f"{name} {n}" for n in range(4)]) for name in "abc"], 4, seed=1)
    path = filled(tmp_path / "anna.csv", key, {"1": "2", "2": "0", "3": "1", "4": "tie"})
    wins = verdicts.count(key, verdicts.read(key, [path]), samples=100, confidence=0.95, seed=1).wins
    assert (wins["b"].value, wins["b"].n) == (0.5, 3) and (wins["c"].value, wins["c"].n) == (0.5, 3)


def test_a_spreadsheets_own_way_to_write_a_table_is_read(tmp_path: Path):
    key = pair()
    path = tmp_path / "clara.csv"
    path.write_text(f"sheet;row;prompt;verdict;note\r\n{key.digest};1;a, b;TIE;\r\n{key.digest};2;;;\r\n", "utf-8-sig")
    assert verdicts.read(key, [path]) == [verdicts.Verdict("1", "clara", frozenset({0, 1}))]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["{key},21,,1"], r"anna.csv, line 2: the sheet has no row '21'; it has 1 to 20"),
        (["{key},1,,1", "{key},1,,2"], r"line 3: anna has judged row 1 already \(.*line 2\)"),
        (["other,1,,1"], r"line 2: this is a verdict on the sheet other, with other prompts or replies than"),
        (["{key},1,,3"], r"line 2: no verdict '3'; legal: 1 to 2 for the best reply, tie, bad"),
        (["{key},1,,better"], r"no verdict 'better'"),
        (["{key},1,,"], "no verdict in it"),
    ],
)
def test_a_verdict_that_does_not_belong_is_one_sentence(tmp_path: Path, lines: list[str], sentence: str):
    key, path = pair(), tmp_path / "anna.csv"
    path.write_text("\n".join([",".join(HEADINGS), *(line.format(key=key.digest) for line in lines)]))
    with pytest.raises(EvaluationError, match=sentence):
        verdicts.read(key, [path])


def test_files_that_are_no_verdicts_are_told(tmp_path: Path):
    key, path = pair(), tmp_path / "anna.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EvaluationError, match=r"line 1: no column row, sheet, verdict"):
        verdicts.read(key, [path])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match=r"anna.csv cannot be read"):
        verdicts.read(key, [path])
    with pytest.raises(EvaluationError, match=r"key.json cannot be read as a sheet's key"):
        sheets.Key.read(tmp_path)


def test_one_person_in_two_files_is_told(tmp_path: Path):
    key = pair()
    paths = [filled(tmp_path / f"{name}.csv", key, {"1": "0"}, rater="Anna") for name in "ab"]
    with pytest.raises(EvaluationError, match=r"b.csv, line 2: Anna has judged row 1 already \(.*a.csv, line 2\)"):
        verdicts.read(key, paths)


def test_only_what_is_comparable_comes_onto_a_sheet():
    with pytest.raises(EvaluationError, match="new and old answered different test prompts"):
        sheets.make([rated("new", ["a"]), rated("old", ["b"], digest="other")], 5, seed=1)
    with pytest.raises(EvaluationError, match="in the same words"):
        sheets.make([rated("new", ["a", ""]), rated("old", ["a", ""])], 5, seed=1)
    with pytest.raises(EvaluationError, match="2 to 8 different models"):
        sheets.make([rated("new", ["a"]), rated("new", ["a"])], 5, seed=1)
