import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from forgeline import cli

PROJECT = Path(__file__).parents[2]
HEAVY = {"datasets", "dvc", "mlflow", "numpy", "polars", "torch", "transformers", "zenml"}


def run(monkeypatch, *arguments):
    """Run the command in this process; return its exit code."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", ["forgeline", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_help_answers_at_once():
    """By what it imports and the processor's time: other tests run beside this one."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from forgeline.cli import main; main()"

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert all(verb.__name__.replace("_", "-") in said for verb in cli.VERBS)
        assert HEAVY.isdisjoint(said.splitlines()[-1].split())
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.8


def test_validate_says_all_that_is_wrong_without_a_traceback(monkeypatch, capsys):
    assert run(monkeypatch, "validate", "--profile", "smoke", "--json") == 0
    assert json.loads(capsys.readouterr().out)["valid"]
    assert run(monkeypatch, "validate", "--set", "train.epoch=1", "--set", "serve.port=0") == 1
    told = capsys.readouterr().err
    assert told.startswith("error: The configuration has 2 faults:")
    assert "did you mean epochs?" in told and "Traceback" not in told


def test_validate_knows_the_options_of_metrics(monkeypatch, capsys):
    assert run(monkeypatch, "validate", "--set", "evaluate.metrics.bleu.smoth=exp") == 1
    assert "metrics.bleu: Bleu does not take {'smoth': 'exp'}" in capsys.readouterr().err


def test_doctor_finds_this_machine_fit(monkeypatch, capsys):
    assert run(monkeypatch, "doctor", "--json") == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["torch"]["ok"] and checks["torch"]["found"].startswith("2.13.0")
    assert {"python", "git", "cpu", "gpu", "memory", "disk", "project"} <= set(checks)


def test_doctor_names_the_command_that_mends(monkeypatch, capsys):
    from forgeline.cli import checks

    monkeypatch.setattr(checks, "requires", lambda name: ["torch>=99", "no-such-package"])
    monkeypatch.setattr(checks, "NEEDED_DISK_GB", 10**9)
    assert run(monkeypatch, "doctor") == 1
    said = capsys.readouterr().out
    assert "make install  (needs >=99)" in said and "not installed" in said and "make clean" in said


def test_a_full_disk_is_one_sentence(monkeypatch, capsys):
    def fill(**options):
        raise OSError(errno.ENOSPC, "No space left on device", "mlflow.db")

    monkeypatch.setattr("forgeline.config.load", fill)
    assert run(monkeypatch, "validate") == 1
    assert "error: The disk is full (mlflow.db): free some space" in capsys.readouterr().err


def test_an_unknown_action_is_told(monkeypatch, capsys):
    assert run(monkeypatch, "ledger", "verfy") == 1
    assert "no such action; legal: verify" in capsys.readouterr().err


def test_an_unknown_probe_is_told(monkeypatch, capsys):
    assert run(monkeypatch, "probe", "base", "--only", "toxcity") == 1
    assert "--only toxcity: no such probe; legal: stereotype, toxicity, exposure" in capsys.readouterr().err
