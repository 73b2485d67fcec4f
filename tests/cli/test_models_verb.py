import json
import sys
from pathlib import Path

import pytest

from forgeline import cli

PROJECT = Path(__file__).parents[2]


def run(monkeypatch, *arguments):
    """Run the command in this process; return its exit code."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", ["forgeline", "models", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def test_the_catalogue_is_listed(monkeypatch, capsys):
    assert run(monkeypatch) == 0
    listed = capsys.readouterr().out
    assert "smollm2-135m\t0.13 B\t8,192\tApache-2.0\tyes\tits sha256" in listed
    assert "qwen2.5-3b\t3.09 B\t32,768\tQwen-Research\tno\taa8e72537993" in listed


def test_models_are_compared_on_a_described_machine(monkeypatch, capsys):
    arguments = ["qwen3-8b", "llama-3.1-8b", "--machine", "h100", "--memory", "24", "--tokens", "5e6", "--json"]
    assert run(monkeypatch, *arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["machine"]["name"], told["machine"]["memory_gb"]) == ("h100", 24)
    found = {(each["model"], each["method"]): each for each in told["estimates"]}
    assert len(found) == 6 and not found["qwen3-8b", "full"]["fits"] and found["qwen3-8b", "full"]["hours"] is None
    qlora = found["llama-3.1-8b", "qlora"]
    assert qlora["fits"] and qlora["price"] == pytest.approx(4 * qlora["hours"])
    assert qlora["least"] < found["llama-3.1-8b", "lora"]["least"]


def test_without_a_description_this_machine_is_measured(monkeypatch, capsys):
    assert run(monkeypatch, "smollm2-135m", "--method", "lora", "--memory", "64", "--tokens", "1e5") == 0
    said = capsys.readouterr().out
    assert "this machine (laptop), measured (64 GB" in said and "smollm2-135m\tlora" in said
    assert "smollm2-135m\tqlora" not in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["qwen3-8"], "did you mean qwen3-8b?"),
        (["--method", "lore"], "no such method; legal: lora"),
        (["qwen3-8b", "--machine", "tpu"], "describes h100, h200"),
    ],
)
def test_a_wrong_word_is_told_with_the_right_ones(monkeypatch, capsys, arguments, told):
    assert run(monkeypatch, *arguments) == 1
    assert told in capsys.readouterr().err
