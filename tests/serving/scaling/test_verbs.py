"""The commands, in a project of configuration alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from forgeline import cli
from forgeline.serving.gateway.interactions import INTERACTIONS
from forgeline.serving.scaling import service
from forgeline.serving.scaling.service import Service
from forgeline.serving.scaling.traffic import recorded

PROJECT = Path(__file__).parents[3]
SERVICE = Service(slots=8, at_once=(1, 8), first=(0.1, 0.35), token=(0.01, 0.03), start=20)
ROW = {"caller": "a", "tenant": "a", "model": "m", "version": "1", "bundle": "b", "run": "r", "rung": "engine"}
ROW |= {"stream": False, "cost": 0.0, "seconds": 1.0, "verdicts": "[]", "marks": "", "sampled": False}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    service.save(SERVICE, "laptop", tmp_path)
    (tmp_path / ".forgeline").mkdir(exist_ok=True)
    engine = create_engine(f"sqlite:///{tmp_path}/.forgeline/gateway.db")
    INTERACTIONS.create(engine)
    outcomes = [("engine", 200, None, 40), ("engine", 500, "failed", None), (None, 429, "queue_full", None)]
    outcomes += [(None, 429, "rate_limited", None), (None, 200, None, 40), ("engine", 200, None, 20)]
    rows = [
        ROW
        | {"key": f"k{n}", "id": f"i{n}", "at": 100.0 + n, "engine": name, "status": status, "error": error}
        | {"completion_tokens": tokens}
        for n, (name, status, error, tokens) in enumerate(outcomes)
    ]
    with engine.begin() as connection:
        connection.execute(INTERACTIONS.insert(), rows)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["forgeline", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_what_engines_answered_and_had_no_room_for_is_the_load(project: Path) -> None:
    trace = recorded(f"sqlite:///{project}/.forgeline/gateway.db")
    assert trace.at.tolist() == [0, 2, 5]
    assert trace.tokens.tolist() == [40, 30, 20]
    assert recorded(f"sqlite:///{project}/.forgeline/gateway.db", since=102).begin == 102


def test_recorded_and_made_up_traffic_are_simulated(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 3
    page = str(project / "simulated.html")
    words = ("--traffic", "steady", "--rate", "2", "--hours", "0.1", "--html", page)
    assert run(monkeypatch, "simulate", *words) == 0
    assert "refused\t0.00%" in capsys.readouterr().out
    assert Path(page).exists()


def test_advice_needs_a_bound_and_ends_with_a_price(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "advise") == 1
    assert "Say how late first tokens may come" in capsys.readouterr().err
    assert run(monkeypatch, "advise", "--first-token", "0.5") == 0
    told = capsys.readouterr().out
    assert "- Cheapest: " in told
    assert "not measured, so not judged: h100, h200" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("simulate", "--machine", "h100"), "run `forgeline measure h100`"),
        (("simulate", "--machine", "abacus"), "configs/cost.yaml has no machine abacus"),
        (("simulate", "--spot"), "configs/cost.yaml has no spot price for laptop"),
        (("simulate", "--from", "nowhere.jsonl"), "There is no file nowhere.jsonl"),
        (("measure",), "Nothing is deployed here"),
    ],
)
def test_what_is_missing_is_one_sentence(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    told: str,
) -> None:
    assert run(monkeypatch, *words) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
