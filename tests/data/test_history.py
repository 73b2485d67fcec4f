"""A small project with a history: three versions, made by two stages of a few lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forgeline import cli
from forgeline.data import history, versions
from forgeline.data.appearances import find_subject
from forgeline.data.comparison import compare
from forgeline.data.erasure import forget
from forgeline.errors import DataError
from forgeline.ledger import Ledger

REPOSITORY = Path(__file__).parents[2]
STAGES = """
import json, pathlib, sys

lines = [json.loads(line) for line in open("data/source/rows.jsonl")]
kept, gone = [x for x in lines if "split" in x], [x for x in lines if "rule" in x]
if sys.argv[1] == "clean":
    import pyarrow
    from forgeline.data import table
    part = table.from_rows([x["row"] for x in gone])
    rules = pyarrow.array([x["rule"] for x in gone], pyarrow.string())
    table.write(pathlib.Path("data/clean/quarantine/shop/0-00000.parquet"), part.append_column("rule", rules))
    rows = {"in": len(lines), "kept": len(kept), "quarantined": len(gone)}
    report = {"rows": rows, "unmasked_pii": 0, "rules": [{"rule": "short", "n": len(gone)}, {"rule": "long", "n": 0}]}
    pathlib.Path("data/reports/bias.json").write_text('{"gates": {}}')
    pathlib.Path("data/reports/fate.csv").write_text(f"fate,rows\\nkept,{len(kept)}\\nquarantined,{len(gone)}\\n")
else:
    rows = {}
    for name in ("train", "validation", "test"):
        chosen = [x["row"] for x in kept if x["split"] == name]
        pathlib.Path(f"data/splits/{name}.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in chosen))
        rows[name] = len(chosen)
    report = {"rows": rows, "test_leakage": 0}
pathlib.Path(f"data/reports/{sys.argv[1]}.json").write_text(json.dumps(report))
"""
PIPELINE = """
stages:
  clean:
    cmd: python make.py clean
    params: [{configs/data.yaml: [clean]}]
    deps: [make.py, data/source]
    outs: [data/clean]
    metrics: [{data/reports/clean.json: {cache: false}}, {data/reports/bias.json: {cache: false}}]
    plots: [{data/reports/fate.csv: {cache: false, x: rows, y: fate, template: bar_horizontal}}]
  split:
    cmd: python make.py split
    params: [{configs/data.yaml: [split]}]
    deps: [make.py, data/clean, data/source]
    outs: [data/splits/train.jsonl, data/splits/validation.jsonl, data/splits/test.jsonl]
    metrics: [{data/reports/split.json: {cache: false}}]
"""
SETTINGS = """
fetch: {sources: {shop: {uri: data/source/*.jsonl}}}
assess: {groups: {}, associations: {}}
split: {seed: 17}
clean: {max_references: 5}
"""


def line(name: str, text: str = "Yes.", **place: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Is {name} open?"}, {"role": "assistant", "content": text}]
    subject = {"subject": "ann"} if name.startswith("ann") else {}
    return {"row": {"id": name, "messages": messages, "key": name, "source": "shop", **subject}, **place}


FIRST = [line(f"t{n}", split="train") for n in range(5)] + [line("v", split="validation"), line("e", split="test")]
FIRST += [line("ann-1", split="train"), line("bad", rule="short")]
SECOND = [
    *(line(f"t{n}", split="train") for n in range(3)),  # t4 is gone
    line("t3", rule="short"),
    line("v", split="train"),  # moved
    line("e", "No.", split="test"),  # changed
    line("bad", split="validation"),  # released
    line("ann-2", rule="long"),
]


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def make(root: Path, lines: list[dict[str, Any]], subject: str) -> versions.Lock:
    (root / "data/source/rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    versions.prepare(root)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", subject)
    found = history.workspace(root)
    assert found
    return found.lock


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The versions `FIRST`, `SECOND` and again `FIRST`'s rows with other settings."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("history") / "project"
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    for folder in ("data/source", "data/clean", "data/splits", "data/reports"):
        (root / folder).mkdir(parents=True)
    files = {"make.py": STAGES, "dvc.yaml": PIPELINE, "configs/data.yaml": SETTINGS, ".gitignore": "ledger.jsonl\n"}
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    Repo.init(str(root)).close()
    make(root, FIRST, "First rows")
    make(root, SECOND, "Second rows")
    (root / "configs/data.yaml").write_text(SETTINGS.replace("max_references: 5", "max_references: 6"))
    make(root, SECOND, "Other settings")
    (root / "README.md").write_text("Nothing of the data.")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Words")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of that project, to change."""
    return Path(shutil.copytree(made, tmp_path / "project", symlinks=True))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A function that runs `forgeline data …` in a project and returns what it says, JSON as values."""

    def call(root: Path, *arguments: str) -> Any:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["forgeline", "data", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        assert not left.value.code, said.err
        return json.loads(said.out) if "--json" in arguments else said.out

    return call


def test_the_log_lists_each_version_once_with_what_moved(made: Path, run: Callable[..., Any]) -> None:
    told = run(made, "log", "--json")
    assert [each["subject"] for each in told] == ["", "Other settings", "Second rows", "First rows"]
    assert [each["in_workspace"] for each in told] == [True, True, False, False]
    assert told[0]["revision"] == "workspace" and told[1]["author"] == "Ann"
    assert told[3]["rows"] == {"in": 9, "kept": 8, "quarantined": 1, "train": 6, "validation": 1, "test": 1}
    assert told[2]["moved"]["clean.rules.short.n"] == {"before": 1.0, "after": 2.0, "difference": 1.0}
    assert told[0]["moved"] == told[1]["moved"] == told[3]["moved"] == {}
    assert len({each["digest"] for each in told}) == 3  # other settings, another version
    newest = run(made, "log", "-n", "1").splitlines()
    assert len(newest) == 3 and newest[2].startswith(f"*\t{told[0]['digest'][:12]}")


def test_a_version_is_named_by_revision_or_digest(made: Path) -> None:
    digests = {version.subject: version.digest for version in history.log(made)}
    assert history.find(made, "HEAD~2").digest == history.find(made, digests["Second rows"][:8]).digest
    assert (
        history.find(made, "HEAD").subject == "Words" and history.find(made, "HEAD").digest == digests["Other settings"]
    )
    with pytest.raises(
        DataError, match=f"nowhere is no dataset version; there are: {digests['Other settings'][:12]}, "
    ):
        history.find(made, "nowhere")


def test_a_difference_tells_every_row_by_what_became_of_it(made: Path, run: Callable[..., Any]) -> None:
    told = run(made, "diff", "HEAD~3", "--json")
    nothing = {"came": 0, "went": 0, "changed": 0, "moved_in": 0, "moved_out": 0}
    assert told["splits"] == {
        "train": nothing | {"went": 3, "moved_in": 1},
        "validation": nothing | {"came": 1, "moved_out": 1},
        "test": nothing | {"changed": 1},
    }
    assert told["sources"] == {"shop": nothing | {"came": 1, "went": 3, "changed": 1}}
    assert told["quarantine"] == {"long": [0, 1], "short": [1, 1]}
    assert told["taken"] == {"short": 1} and told["released"] == {"short": 1}
    assert [row["id"] for row in told["examples"]["train"]["went"]] == ["t3", "t4", "ann-1"]
    (changed,) = told["examples"]["test"]["changed"]
    assert [turns[-1]["content"] for turns in changed["messages"]] == ["Yes.", "No."] and set(changed) == {
        "id",
        "messages",
    }
    assert told["metrics"]["split.rows.train"] == {"before": 6.0, "after": 4.0, "difference": -2.0}
    assert "t3" in run(made, "diff", "HEAD~3", "--rows", "1") and "t4" not in run(made, "diff", "HEAD~3", "--rows", "1")

    same = compare(made, history.find(made, "HEAD"), history.find(made, "workspace"))
    assert not same.examples and not same.metrics and all(rows.model_dump() == nothing for rows in same.splits.values())


def test_a_rollback_brings_everything_back_and_nothing_runs_again(root: Path, run: Callable[..., Any]) -> None:
    before, head = history.workspace(root), git(root, "rev-parse", "HEAD")
    told = run(root, "rollback", "HEAD~3", "--reason", "the second rows were mislabelled", "--json")
    assert before and told["data_before"] == before.digest and told["stale"] == {}
    assert versions.changed(root) == {} and not versions.edited(root)
    first = history.find(root, "HEAD~3")
    assert history.workspace(root) == history.Version(first.lock, "workspace")
    assert len((root / "data/splits/train.jsonl").read_text().splitlines()) == 6
    assert json.loads((root / "data/reports/clean.json").read_text())["rows"]["in"] == 9
    assert "max_references: 5" in (root / "configs/data.yaml").read_text() and (root / "README.md").exists()
    assert git(root, "rev-parse", "HEAD") == head  # the commit is the user's
    (entry,) = Ledger(root / "ledger.jsonl").verify()
    assert entry.action == "data rolled back" and entry.facts["reason"] == "the second rows were mislabelled"
    assert entry.facts["data_digest"] == first.digest and entry.actor

    assert run(root, "rollback", "HEAD~3", "--reason", "again", "--json")["stale"] == {}  # as after a kill


def test_a_rollback_refuses_to_lose_what_is_not_committed(root: Path) -> None:
    first = history.find(root, "HEAD~3")
    (root / "data/source/new.jsonl").write_text("")
    (root / "configs/data.yaml").write_text("split: {seed: 4}")
    (root / "make.py").write_text(STAGES + "# not the data's")
    with pytest.raises(DataError, match=r"would lose it: configs/data.yaml, data/source/new.jsonl\. Commit"):
        history.roll_back(root, first)
    (root / "data/source/new.jsonl").unlink()
    git(root, "restore", "configs/data.yaml")
    test = root / "data/splits/test.jsonl"
    test.write_text("edited")
    with pytest.raises(DataError, match=r"would lose it: data/splits/test\.jsonl\."):
        history.roll_back(root, first)
    assert test.read_text() == "edited"
    versions.check_out(root)
    done = history.roll_back(root, first)
    assert done.stale == {"clean": ["make.py"], "split": ["make.py"]}


def test_a_version_whose_files_are_nowhere_is_refused_and_nothing_is_touched(root: Path) -> None:
    first = history.find(root, "HEAD~3")
    stored = versions.objects(root, [first.lock.hashes["train"]])
    next(iter(stored.values())).unlink()
    with pytest.raises(DataError, match="not in the local store, and the project has no remote"):
        history.roll_back(root, first)
    assert not git(root, "status", "--porcelain") and versions.changed(root) == {}


def test_a_subject_is_found_in_every_version_that_holds_their_rows(root: Path, run: Callable[..., Any]) -> None:
    found = [(each.rows, each.missing) for each in find_subject(root, "ann")]
    assert found == [({"quarantine": ["ann-2"]}, []), ({"quarantine": ["ann-2"]}, []), ({"train": ["ann-1"]}, [])]
    told = run(root, "find-subject", "an", "--json")
    assert told == {"subject": "an", "erased": False, "versions": [], "trained_models": []}

    forget(root, "ann", "asked for it")
    (lost,) = versions.objects(root, [history.find(root, "HEAD~3").lock.hashes["train"]]).values()
    lost.unlink()
    said = run(root, "find-subject", "ann")
    assert "\tnot here\t0\t0\t0\n" in said and "--fetch" in said and "erased: no later version" in said


@pytest.fixture
def bucket(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A running S3 server, which is the project's remote; yields its address."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="data")
    dvc(root, "remote", "add", "--local", "--default", "shared", "s3://data/forgeline")
    dvc(root, "remote", "modify", "--local", "shared", "endpointurl", address)
    yield address
    server.stop()


def dvc(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_version_comes_back_from_an_s3_store(root: Path, bucket: str) -> None:
    before, first = versions.current(root), history.find(root, "HEAD~3")
    compared = compare(root, first, history.find(root, "HEAD"))
    dvc(root, "push", "--all-commits")
    shutil.rmtree(root / ".dvc/cache")
    for folder in ("data/splits", "data/clean"):
        shutil.rmtree(root / folder)
    dvc(root, "pull")
    assert versions.current(root) == before
    shutil.rmtree(root / ".dvc/cache")
    assert compare(root, first, history.find(root, "HEAD")) == compared  # fetches what it needs
    assert history.roll_back(root, first).stale == {}
    assert versions.current(root).hashes == first.lock.hashes


def test_a_remote_that_stops_answering_is_given_up(root: Path, bucket: str) -> None:
    shutil.rmtree(root / ".dvc/cache")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        dvc(
            root,
            "remote",
            "modify",
            "--local",
            "shared",
            "endpointurl",
            f"http://127.0.0.1:{listener.getsockname()[1]}",
        )
        for limit in ("connect_timeout", "read_timeout"):
            dvc(root, "remote", "modify", "--local", "shared", limit, "1")
        started = time.monotonic()
        with pytest.raises(DataError, match=r"The remote s3://data/forgeline does not give the data: .*imeout"):
            history.splits(root, history.find(root, "HEAD"))
        assert time.monotonic() - started < 30


def test_charts_need_no_network(root: Path, run: Callable[..., Any]) -> None:
    said = run(root, "plots", "HEAD~3", "workspace")
    page = (root / ".forgeline/plots.html").read_text()
    assert said.startswith("1 charts: file://") and "vegaEmbed('#" in page and "window.vegaEmbed=" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page.split("</script>", 1)[1])
    dvc(root, "plots", "show")
    shown = (root / "dvc_plots/index.html").read_text()
    assert "window.vegaEmbed=" in shown and "<script src" not in shown
    assert not git(root, "status", "--porcelain", "--", ".dvc")


def test_an_unchanged_project_is_told_quickly(made: Path) -> None:
    before = os.times()
    dvc(made, "repro")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 4  # of the processor, which other work does not stretch as it does the clock
