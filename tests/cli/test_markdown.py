"""A run's answer as a job summary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from forgeline.cli.markdown import FAILED, main, render

if TYPE_CHECKING:
    from conftest import Project


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 16, "confidence": 0.95}


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "action": "refused",
        "reason": "a gate did not pass; the champion stays as it was",
        "data": {"digest": "d698ef2d0390ccc3", "counts": {"raw": 28894, "train": 8424}},
        "version": 2,
        "champion": 1,
        "verdicts": [
            {"gate": "bleu_floor", "outcome": "fail", "reason": "bleu is 15.08 [6.50, 24.26]; must be at least 25"},
            {"gate": "bleu_beats_base", "outcome": "unknown", "reason": "no evidence of bleu against base"},
        ],
        "success": [{"gate": "stop_rate", "outcome": "pass", "reason": "stop_rate is 0.99; must be at least 0.95"}],
        "scores": {
            "bleu": {
                "base": estimate(0.97, 0.557, 1.349),
                "candidate": estimate(15.0754, 6.4956, 24.259),
                "difference": estimate(14.105, 5.686, 22.846),
            }
        },
        "lineage": {name: name for name in ("git_revision", "config_digest", "mlflow_run_id", "zenml_run_id")},
    }


def test_it_shows_scores_gates_and_data(result: dict[str, Any]) -> None:
    lines = render(result).splitlines()
    assert lines[0] == "### ❌ Refused: a gate did not pass; the champion stays as it was"
    assert "Version 2, champion 1." in lines
    assert "| 16 frozen test prompts, 95% intervals | base | candidate | difference |" in lines
    assert "| bleu | 0.97 [0.56, 1.35] | 15.08 [6.50, 24.26] | 14.11 [5.69, 22.85] |" in lines
    assert "| ❌ fail | bleu_floor | bleu is 15.08 [6.50, 24.26]; must be at least 25 |" in lines
    assert "| ❔ unknown | bleu_beats_base | no evidence of bleu against base |" in lines
    assert lines.index("| verdict | success metric | why |") > lines.index("| verdict | gate | why |")
    assert "| ✅ pass | stop_rate | stop_rate is 0.99; must be at least 0.95 |" in lines
    assert "| raw | 28,894 |" in lines


def test_models_of_other_tokens_leave_a_cell_empty(result: dict[str, Any]) -> None:
    result["scores"]["perplexity"] = {**result["scores"]["bleu"], "difference": None}
    assert "| perplexity | 0.97 [0.56, 1.35] | 15.08 [6.50, 24.26] |  |" in render(result).splitlines()


def test_nothing_to_do_before_there_is_a_version(result: dict[str, Any]) -> None:
    for absent in ("scores", "success", "lineage"):
        del result[absent]
    text = render({**result, "action": "unchanged", "version": None, "champion": None, "verdicts": []})
    assert "Version none, champion none." in text
    assert "verdict" not in text


def test_a_cell_stays_a_cell(result: dict[str, Any]) -> None:
    result["verdicts"] = [{"gate": "odd", "outcome": "pass", "reason": "a | b\n| c | <img src=x>"}]
    assert "| ✅ pass | odd | a \\| b \\| c \\| &lt;img src=x> |" in render(result).splitlines()


def test_the_answer_of_a_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "run.json"
    answer.write_text("")
    assert main([str(answer)]) == 0
    assert capsys.readouterr().out == FAILED


@pytest.mark.parametrize("text", ["{}", "[1]", "not JSON"])
def test_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    answer = tmp_path / "run.json"
    answer.write_text(text)
    assert main([str(answer)]) == 1
    assert "run.json is not the answer of `forgeline run --json`" in capsys.readouterr().err


def test_the_smoke_runs_answer_as_the_workflow_renders_it(smoke_project: Project) -> None:
    answer = smoke_project.root / "run.json"
    command = [sys.executable, "-m", "forgeline.cli.markdown", "run.json"]
    shown = subprocess.run(
        command, cwd=smoke_project.root, env=smoke_project.env, capture_output=True, text=True, check=True
    ).stdout
    run = json.loads(answer.read_text(encoding="utf-8"))
    assert shown == render(run)
    assert shown.startswith("### ✅ Promoted: every gate passed")
    assert all(f"| {gate['gate']} |" in shown for gate in run["verdicts"])
    assert all(f"| {metric} |" in shown for metric in run["scores"])
