"""Files in every format and shape, good and bad, through `fetch` and `forgeline data preview`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from pyarrow import parquet
from typer.testing import CliRunner

from forgeline.cli.data import app
from forgeline.config.schema import Data
from forgeline.data import table
from forgeline.data.erasure import forget, subject_digest
from forgeline.data.fetch import fetch
from forgeline.data.ingest import plan
from forgeline.errors import DataError, SourceError

Rows = list[dict[str, Any]]
PAIRS: Rows = [
    {"prompt": "Where is it?", "completion": "On its way – soon."},
    {"prompt": "Who?", "completion": "Me\nand you"},
]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def configured(system: str | None = None, workers: int = 1, **sources: Any) -> Data:
    fetching = {"sources": sources or {"rows": {"uri": "data/source"}}, "system": system}
    return Data.model_validate({"fetch": fetching, "assess": {"groups": {}, "associations": {}}, "workers": workers})


def put(root: Path, name: str, content: bytes | str) -> Path:
    path = root / "data/source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(rows: list[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def fetched(root: Path, config: Data | None = None) -> Rows:
    report = fetch(root, config or configured())
    rows = raw_rows(root)
    assert report["rows"] == len(rows)
    assert report["malformed"] == sum("fault" in row for row in rows)
    return rows


def raw_rows(root: Path) -> Rows:
    return [row for part in table.parts(root / "data/raw") for row in table.to_rows(table.read(part))]


def raw_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in table.parts(root / "data/raw")}


# Formats and shapes


def delimited(rows: Rows, delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows([json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows)
    return text.getvalue().encode()


def columnar(rows: Rows, write: Callable[[pyarrow.Table, Any], None]) -> bytes:
    sink = io.BytesIO()
    write(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def ipc(new: Any) -> Callable[[Rows], bytes]:
    def write(rows: pyarrow.Table, sink: Any) -> None:
        with new(sink, rows.schema) as writer:
            writer.write_table(rows)

    return lambda rows: columnar(rows, write)


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "rows.jsonl": jsonl,
    "rows.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "object.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "rows.csv": lambda rows: delimited(rows, ","),
    "semicolons.csv": lambda rows: delimited(rows, ";"),
    "rows.tsv": lambda rows: delimited(rows, "\t"),
    "rows.parquet": lambda rows: columnar(rows, parquet.write_table),
    "file.arrow": ipc(pyarrow.ipc.new_file),
    "stream.arrow": ipc(pyarrow.ipc.new_stream),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}
TURNS = [
    [user("Hi"), assistant("Hello")],
    [{"role": "system", "content": "Be kind."}, user("Bye"), assistant("Bye, you")],
]
SHARED = [
    [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
    [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Bye"}, {"from": "gpt", "value": "Bye, you"}],
]
PLAIN = [[user("Where is it?"), assistant("On its way – soon.")], [user("Who?"), assistant("Me\nand you")]]
SHAPES: dict[str, tuple[Rows, list[Any]]] = {
    "messages": ([{"messages": turns} for turns in TURNS], [{"messages": turns} for turns in TURNS]),
    "sharegpt": ([{"conversations": turns} for turns in SHARED], [{"messages": turns} for turns in TURNS]),
    "prompt_completion": (PAIRS, [{"messages": turns} for turns in PLAIN]),
    "instruction": (
        [
            {"instruction": "Translate.", "input": "chat", "output": "cat"},
            {"instruction": "Say hi.", "input": "", "output": "hi"},
        ],
        [
            {"messages": [user("Translate.\n\nchat"), assistant("cat")]},
            {"messages": [user("Say hi."), assistant("hi")]},
        ],
    ),
    "preference": (
        [
            {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
            {"prompt": "Bye", "chosen": "Bye!", "rejected": "No."},
        ],
        [
            {"messages": [user("Hi"), assistant("Hello!")], "rejected": "What?"},
            {"messages": [user("Bye"), assistant("Bye!")], "rejected": "No."},
        ],
    ),
    "feedback": (
        [{**pair, "label": label} for pair, label in zip(PAIRS, (True, False), strict=True)],
        [{"messages": turns, "label": label} for turns, label in zip(PLAIN, (True, False), strict=True)],
    ),
    "text": (
        [{"text": "One."}, {"text": "Two.\n\nEnd."}],
        [{"messages": [assistant(t)]} for t in ("One.", "Two.\n\nEnd.")],
    ),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_and_shape_is_detected(tmp_path: Path, name: str, shape: str, compression: str) -> None:
    rows, expected = SHAPES[shape]
    put(tmp_path, name + compression, COMPRESSIONS[compression](FORMATS[name](rows)))
    report = fetch(tmp_path, configured())
    found = raw_rows(tmp_path)
    assert [
        {k: v for k, v in row.items() if k in {"messages", "rejected", "label", "fault"}} for row in found
    ] == expected
    [source] = report["sources"].values()
    form = {"json": "json", "jsonl": "jsonl"}.get(name.split(".")[1], name.split(".")[1])
    kind = {"": "", ".gz": " (gzip)", ".zst": " (zstd)"}[compression]
    assert (source["format"], source["shape"], source["files"]) == ([form + kind], shape, 1)


def test_text_files_are_documents_and_share_parts(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path, f"deep/{number}.txt", f"Document {number}.\n\nIts end.\n")
    put(tmp_path, "deep/5.txt.gz", gzip.compress(b"Document 5."))
    put(tmp_path, "deep/.hidden.txt", "no")
    put(tmp_path, "deep/picture.png", "no")
    rows = fetched(tmp_path, configured(system="You help."))
    assert [row["messages"][0]["content"][:10] for row in rows] == [f"Document {n}" for n in range(6)]
    assert all(len(row["messages"]) == 1 for row in rows) and len({row["key"] for row in rows}) == 6
    assert rows[5]["origin"] == {"source": "data/source/deep/5.txt.gz", "row": 1}
    assert len(table.parts(tmp_path / "data/raw")) < 3


def test_content_tells_what_a_name_does_not(tmp_path: Path) -> None:
    put(tmp_path, "rows", FORMATS["rows.parquet"](PAIRS))
    put(tmp_path, "lines.json", jsonl(PAIRS))
    put(tmp_path, "one.json", json.dumps(PAIRS[0], indent=2))
    put(tmp_path, "utf16.csv", delimited(PAIRS, ",").decode().encode("utf-16"))
    put(tmp_path, "utf16.jsonl", jsonl(PAIRS).decode().encode("utf-16"))
    put(tmp_path, "mark.jsonl", b"\xef\xbb\xbf" + jsonl(PAIRS))
    rows = fetched(tmp_path, configured(rows={"uri": "data/source/*"}))
    assert len(rows) == 11 and {row["messages"][0]["content"] for row in rows} == {"Where is it?", "Who?"}
    put(tmp_path, "picture", b"\x89PNG....")
    with pytest.raises(DataError, match=r"data/source/picture has none of the endings .*give the source's `format`"):
        fetch(tmp_path, configured(rows={"uri": "data/source/picture"}))


def test_values_find_their_place_in_the_record(tmp_path: Path) -> None:
    full = {
        **PAIRS[0], "id": 7, "key": "k", "subject": "anna", "groups": {"region": "north", "age": 40}, "weight": "2.5",
        "label": "sports", "references": ["On its way."], "system": "Be brief.",
        "created_at": "2024-05-01T12:00:00+02:00", "colour": "red", "nothing": None, "origin": {"page": 3},
    }  # fmt: skip
    put(tmp_path, "rows.jsonl", jsonl([PAIRS[1], full]))
    plain, row = fetched(tmp_path, configured(system="You help."))
    assert row | {"messages": []} == {
        "id": "7", "key": "k", "subject": "anna", "groups": {"region": "north", "age": "40"}, "weight": 2.5,
        "references": ["On its way."], "time": "2024-05-01T10:00:00+00:00", "source": "rows", "messages": [],
        "origin": {
            "fields": {"colour": "red", "label": "sports"}, "line": 2, "page": 3, "source": "data/source/rows.jsonl"
        },
    }  # fmt: skip
    assert [turns[0]["content"] for turns in (plain["messages"], row["messages"])] == ["You help.", "Be brief."]
    assert plain["origin"] == {"source": "data/source/rows.jsonl", "line": 1} and len(plain["id"]) == 16


def test_columns_rename_and_tables_hold_more_than_json(tmp_path: Path) -> None:
    columns = {"prompt": "question", "completion": "answer", "subject": "customer", "time": "asked"}
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    row = {"question": "Q", "answer": "A", "customer": 12, "asked": moment, "price": Decimal("1.50"), "prompt": "other"}
    put(tmp_path, "rows.parquet", columnar([row], parquet.write_table))
    [found] = fetched(tmp_path, configured(rows={"uri": "data/source/rows.parquet", "columns": columns}))
    assert found["messages"] == [user("Q"), assistant("A")] and found["subject"] == "12"
    assert found["time"] == "2024-05-01T00:00:00+00:00" and found["origin"]["fields"] == {"price": "1.50"}


def test_preferences_may_be_conversations(tmp_path: Path) -> None:
    shared = [user("Hi"), assistant("Yes?"), user("Time?")]
    rows = [
        {"chosen": [*shared, assistant("Noon.")], "rejected": [*shared, assistant("No.")]},
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("A")], "rejected": [user("Hi"), assistant("B")]},
        {"prompt": shared, "chosen": [assistant("Noon.")], "rejected": [assistant("No.")]},
        {"chosen": [user("Hi"), assistant("A")], "rejected": [user("Ho"), assistant("B")]},
        {"chosen": "A", "rejected": "B"},
    ]
    put(tmp_path, "rows.jsonl", jsonl(rows))
    found = fetched(tmp_path)
    assert [row["messages"][-1]["content"] + row["rejected"] for row in found[:3]] == ["Noon.No.", "AB", "Noon.No."]
    assert found[0]["messages"] == found[2]["messages"] and len(found[1]["messages"]) == 2
    assert "expected the same turns before the last" in found[3]["fault"] and "expected prompt" in found[4]["fault"]


def test_a_derived_key_depends_on_the_prompt_alone(tmp_path: Path) -> None:
    put(tmp_path, "rows.jsonl", jsonl(PAIRS))
    put(tmp_path, "rows.csv", delimited([{"prompt": "where is IT", "completion": "x"}], ","))
    keys = [{row["key"] for row in fetched(tmp_path, configured(system=system))} for system in (None, "You help.")]
    assert keys[0] == keys[1] and len(keys[0]) == 2


# What cannot be read


BAD_LINES: list[tuple[Any, str]] = [
    (b"{not json", "line 2: not JSON: expecting property name enclosed in double quotes at column 2"),
    (b'{"prompt": "p", "completion": "caf\xe9"}', "line 2: not UTF-8 at byte 35 (0xe9)"),
    (b"[1, 2]", "line 2: expected an object, found a list"),
    (b'{"prompt": "p", "completion": NaN}', "line 2: completion: expected text, found NaN"),
    (b'{"prompt": "p", "completion": "\\ud83d"}', "line 2: expected text in Unicode"),
    (b"[" * 5000, "line 2: not JSON"),
    ({"prompt": "p", "completion": None}, "line 2: completion: expected text, found null"),
    ({"prompt": 5, "completion": "c"}, "line 2: prompt: expected text, found the number 5"),
    ({"question": "p", "answer": "c"}, "line 2: expected prompt and completion; found question, answer"),
    ({"prompt": "p", "completion": []}, "line 2: completion: expected turns, found none"),
    (
        {"prompt": "p", "completion": [user("x")]},
        "line 2: prompt: expected the assistant's turn last, found the user's",
    ),
    ({"prompt": "p", "completion": "c", "subject": ["a"]}, "line 2: subject: expected text, found a list"),
]


@pytest.mark.parametrize(("line", "fault"), BAD_LINES)
def test_a_bad_line_is_a_fault_that_names_file_line_and_field(tmp_path: Path, line: Any, fault: str) -> None:
    put(tmp_path, "rows.jsonl", jsonl([PAIRS[0], line, PAIRS[1]]))
    good, bad, after = fetched(tmp_path)
    assert bad["fault"].startswith(f"data/source/rows.jsonl, {fault}")
    assert bad["raw"] == (line if isinstance(line, bytes) else json.dumps(line).encode()).decode(errors="replace")
    assert bad["origin"] == {"source": "data/source/rows.jsonl", "line": 2} and bad["source"] == "rows"
    assert "fault" not in good and "fault" not in after and "messages" not in bad


@pytest.mark.parametrize(
    ("turn", "fault"),
    [
        ({"role": "tool", "content": "4"}, "messages[1]: turns of tools and functions are not supported"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}], "content": None}, "turns of tools and functions"),
        ({"role": "narrator", "content": "4"}, "messages[1].role: expected one of system, developer, user"),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "messages[1].content[0].text: expected text, found null",
        ),
        ("hello", "messages[1]: expected an object with role and content, found text 'hello'"),
    ],
)
def test_turns_that_no_record_can_hold_are_faults(tmp_path: Path, turn: Any, fault: str) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    put(
        tmp_path,
        "rows.jsonl",
        jsonl([{"messages": [parts, assistant("x")]}, {"messages": [user("a"), turn, assistant("b")]}]),
    )
    good, bad = fetched(tmp_path)
    assert good["messages"][0]["content"] == "a\nb"
    assert fault in bad["fault"]


def test_null_bytes_and_control_characters_are_text(tmp_path: Path) -> None:
    put(tmp_path, "rows.jsonl", b'{"prompt": "a\\u0000b", "completion": "tab\there\x00"}\n')
    put(tmp_path, "rows.csv", b"prompt,completion\r\na\x00b,c\r\n")
    said = {row["origin"]["source"][-5:]: row["messages"] for row in fetched(tmp_path)}
    assert said["jsonl"] == [user("a\x00b"), assistant("tab\there\x00")] and said["s.csv"] == [
        user("a\x00b"),
        assistant("c"),
    ]


def test_a_huge_line_is_a_fault_and_never_in_memory(tmp_path: Path) -> None:
    path = put(tmp_path, "rows.jsonl", jsonl(PAIRS))
    with path.open("ab") as file:
        file.write(b'{"prompt": "' + b"x" * (50 << 20) + b'", "completion": "c"}\n' + jsonl(PAIRS))
    tracemalloc.start()
    rows = fetched(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
    assert [row["origin"]["line"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["fault"] == (
        "data/source/rows.jsonl, line 3: 51 MB in one piece; more than 16 MB are not read: split it"
    )
    assert len(rows[2]["raw"]) == 2000


def test_csv_faults_leave_the_other_rows(tmp_path: Path) -> None:
    text = b'prompt,completion\na,b\nonly one\n"two\nlines",c\ncaf\xe9,d\n,e\n\nx,y\n'
    put(tmp_path, "rows.csv", text)
    rows = fetched(tmp_path)
    assert [row["origin"]["line"] for row in rows] == [2, 3, 4, 6, 7, 9]
    assert [row.get("fault", "").partition(": ")[2] for row in rows] == [
        "", "expected 2 cells, as in the header; found 1", "", "not UTF-8 at byte 4 (0xe9): save it as UTF-8",
        "prompt: expected text, found null", "",
    ]  # fmt: skip
    assert rows[2]["messages"][0]["content"] == "two\nlines" and rows[1]["raw"] == "only one"


def test_files_of_a_source_with_other_columns_are_faults(tmp_path: Path) -> None:
    put(tmp_path, "a.parquet", columnar(PAIRS, parquet.write_table))
    put(tmp_path, "b.parquet", columnar([{"prompt": "p", "reply": "c"}], parquet.write_table))
    [bad] = [row for row in fetched(tmp_path) if "fault" in row]
    assert bad["fault"] == "data/source/b.parquet, row 1: expected prompt and completion; found prompt, reply"
    assert json.loads(bad["raw"]) == {"prompt": "p", "reply": "c"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "x.jsonl.gz",
            gzip.compress(jsonl(PAIRS * 20000))[:-40],
            r"x\.jsonl\.gz is cut off or damaged after [\d,]{5,} rows .*get it again",
        ),
        ("x.jsonl.zst", zstandard.compress(jsonl(PAIRS * 20000))[:-40], r"after [\d,]{5,} rows \(Truncated"),
        ("x.parquet", FORMATS["rows.parquet"](PAIRS)[:-40], "x.parquet is cut off or damaged after 0 rows"),
        ("x.arrow", FORMATS["file.arrow"](PAIRS)[:-40], "x.arrow is cut off or damaged after 0 rows"),
        ("x.parquet", b"no parquet", "is named like parquet and does not begin like it"),
        ("x.json", b'[{"prompt": "p"', "x.json is not JSON: .* at column 16: mend the file or get it again"),
        ("x.json", b'{"a": [{}], "b": [{}]}', "one list of rows; its fields a, b hold 2: make it"),
        ("x.csv", b"prompt,prompt\n1,2\n", "line 1: more than one column is called prompt"),
        ("x.jsonl", b"not\njson\n", "the first row is no object with fields.*The row: not JSON"),
        (
            "x.jsonl",
            b'{"question": "q", "reply": "r"}\n',
            "has the fields question, reply, which is none of the known shapes.*'q'",
        ),
        ("x.jsonl", b"", "x.jsonl: no rows"),
        ("x.bin", b"", "holds no file of a known format"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_and_costs_nothing(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    put(tmp_path, "good/rows.jsonl", jsonl(PAIRS))
    good = {"uri": "data/source/good"}
    fetch(tmp_path, configured(good=good))
    before = raw_bytes(tmp_path)
    put(tmp_path, f"bad/{name}", content)
    with pytest.raises(DataError, match=sentence) as fault:
        fetch(tmp_path, configured(good=good, bad={"uri": "data/source/bad"}))
    assert "\n" not in str(fault.value)
    assert raw_bytes(tmp_path) == before and not list((tmp_path / "data").rglob("*.part"))


def test_a_json_document_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgeline.data.ingest.readers.MAX_WHOLE", 100)
    put(tmp_path, "x.json", json.dumps(PAIRS * 10))
    with pytest.raises(DataError, match=r"holds more than 0 MB of JSON in one piece.*make it JSON lines"):
        fetch(tmp_path, configured())


def test_files_outside_the_watched_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "far.jsonl").write_bytes(jsonl(PAIRS))
    with pytest.raises(DataError, match=r"far\.jsonl lies outside data/source/"):
        fetch(tmp_path, configured(rows={"uri": "far.jsonl"}))


# What changed, who works, who was erased


def test_only_new_files_are_parsed_and_the_bytes_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a.jsonl", jsonl(PAIRS))
    config = configured()
    fetch(tmp_path, config)
    put(tmp_path, "b.csv", delimited(PAIRS, ","))
    report = fetch(tmp_path, config)
    assert [line for line in capsys.readouterr().err.splitlines() if "parsed" in line] == [
        "parsed 1 of 1 files",
        "parsed 1 of 2 files",
    ]
    other = tmp_path / "other"
    put(other, "b.csv", delimited(PAIRS, ","))
    put(other, "a.jsonl", jsonl(PAIRS))
    assert fetch(other, config) == report and raw_bytes(other) == raw_bytes(tmp_path)
    assert "parsed 2 of 2 files" in capsys.readouterr().err
    (tmp_path / "data/source/a.jsonl").unlink()
    fetch(tmp_path, config)
    cached = {path.name for path in (tmp_path / ".forgeline/data/raw/rows").glob("*.parquet")}
    assert cached == raw_bytes(tmp_path).keys() and len(cached) == 1  # what is no longer used is gone
    monkeypatch.setattr("forgeline.data.fetch.CODE", ("data/fetch.py",))  # as if the code had changed
    fetch(tmp_path, config)
    assert capsys.readouterr().err.endswith("parsed 1 of 1 files\n")


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"Number {n}?", "completion": f"It is {n}." if n % 1000 else None} for n in range(21_000)]
    put(tmp_path, "rows.jsonl", jsonl(rows))
    found = fetched(tmp_path, configured(workers=1))
    assert [row["origin"]["line"] for row in found] == list(range(1, 21_001))
    alone = raw_bytes(tmp_path)
    assert len(alone) == 2
    monkeypatch.setattr(plan, "BUNDLE", 1)
    two = tmp_path / "two"
    put(two, "rows.jsonl", jsonl(rows))
    fetch(two, configured(workers=2))
    assert raw_bytes(two) == alone


def test_parts_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forgeline.data.ingest.parts.SPAN", 3000)
    monkeypatch.setattr(table, "PART_BYTES", 4000)
    rows = [{"prompt": f"p{n}", "completion": "c" * 900} for n in range(20)]
    put(tmp_path, "rows.jsonl", jsonl(rows))
    put(tmp_path, "same.jsonl.gz", gzip.compress(jsonl(rows)))
    found = fetched(tmp_path, configured(rows={"uri": "data/source"}))
    assert sorted(row["origin"]["line"] for row in found) == sorted([*range(1, 21)] * 2)
    sizes = [table.read(part).num_rows for part in table.parts(tmp_path / "data/raw")]
    assert max(sizes) <= 4 and sum(sizes) == 40 and len(sizes) == 10


def test_a_kill_between_two_parts_costs_nothing(tmp_path: Path) -> None:
    put(tmp_path, "rows.jsonl", jsonl([{"prompt": f"p{n}", "completion": "c"} for n in range(21_000)]))
    program = """
import os, signal, sys
from pathlib import Path
from pyarrow import parquet
sys.path.insert(0, sys.argv[2])
from test_ingest import configured, fetch
write_table = parquet.write_table
def dying(table, path, **options):
    write_table(table, path, **options)
    if "-00001" in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
parquet.write_table = dying
fetch(Path(sys.argv[1]), configured())
"""
    command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "data/raw").exists()
    assert len(fetched(tmp_path)) == 21_000
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def test_rows_of_the_erased_are_in_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whose = ["anna", "ben", "anna", None]
    rows = [{**PAIRS[0], "completion": f"c{n}", "subject": name} for n, name in enumerate(whose)]
    put(tmp_path, "rows.jsonl", jsonl([*rows, {"prompt": None, "completion": "x", "subject": "anna"}]))
    put(tmp_path, "others.jsonl", jsonl(PAIRS))
    assert len(fetched(tmp_path)) == 7
    assert forget(tmp_path, "anna", "asked on 1 May") and not forget(tmp_path, "anna", "asked again")
    report = fetch(tmp_path, configured())
    assert capsys.readouterr().err.endswith("parsed 0 of 2 files\n")
    left = raw_rows(tmp_path)
    assert {row.get("subject") for row in left} == {"ben", None} and len(left) == 4
    assert (report["rows"], report["malformed"], report["erased"]) == (4, 0, 3)
    text = (tmp_path / "data/erased/tombstones.jsonl").read_text()
    assert subject_digest("anna") in text and "anna" not in text and text.count("\n") == 1
    (tmp_path / "data/erased/tombstones.jsonl").write_text(text + '{"subject": "anna"}\n')
    with pytest.raises(DataError, match=r"tombstones.jsonl, line 2: expected subject, a sha256"):
        fetch(tmp_path, configured())


def test_sources_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "a/rows.jsonl", jsonl(PAIRS))
    put(tmp_path, "b/rows.jsonl", jsonl([{"text": "One."}]))
    sources = {
        "a": {"uri": "data/source/a", "weight": 2, "license": "MIT"},
        "b": {"uri": ["data/source/b/rows.jsonl"], "weight": 1},
    }
    report = fetch(tmp_path, configured(**sources))
    assert [row["source"] for row in raw_rows(tmp_path)] == ["a", "a", "b"]
    assert report["sources"]["a"] == {
        "rows": 2, "malformed": 0, "erased": 0, "files": 1, "format": ["jsonl"], "shape": "prompt_completion",
        "license": "MIT", "weight": 2.0,
    }  # fmt: skip
    assert json.loads((tmp_path / "data/reports/fetch.json").read_text()) == report


# The command line


def forgeline(*arguments: str) -> str:
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.stdout


def test_preview_shows_what_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path, "rows.csv.gz", gzip.compress(b"prompt,completion\na,b\nno\n"))
    shown = forgeline("preview", "data/source/rows.csv.gz")
    assert "prompt_completion; data/source/rows.csv.gz: csv (gzip)" in shown
    assert "user: a | assistant: b" in shown
    assert "FAULT data/source/rows.csv.gz, line 3: expected 2 cells, as in the header; found 1: no" in shown
    [answer] = json.loads(forgeline("preview", str(path), "--rows", "1", "--json"))
    assert answer["shape"] == "prompt_completion" and answer["rows"][0]["messages"] == [user("a"), assistant("b")]
    with pytest.raises(SourceError, match=r"nothing\.csv does not exist"):
        forgeline("preview", "nothing.csv")


def test_preview_and_forget_in_a_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert "user: What is number 0?" in forgeline("preview", "rows", "--rows", "1")
    with pytest.raises(DataError, match="is neither a file nor a source of configs/data"):
        forgeline("preview", "nobody")
    fetch(project, configured())
    [parts] = json.loads(forgeline("preview", "data/raw", "--json"))
    assert parts["shape"] == "parts" and len(parts["rows"]) == 5
    assert "are left out from the next version on" in forgeline("forget", "anna", "--reason", "asked")
    assert json.loads(forgeline("forget", "anna", "--reason", "again", "--json"))["added"] is False


def test_a_database_needs_its_query(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no known protocol oracle.*needs a `query`"):
        fetch(tmp_path, configured(rows={"uri": "oracle://host/rows"}))
