import json
from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.config.schema import Train
from forgeline.data.versions import DataVersion
from forgeline.errors import ConfigError
from forgeline.evaluation.probes import Scene, probe
from forgeline.evaluation.subjects import Local
from forgeline.models import load_base, load_tuned
from forgeline.records import Record, read_records, write_jsonl
from forgeline.tuning import tune

PROJECT = Path(__file__).parents[2]
DATA = DataVersion(
    digest="d", hashes={}, counts={}, test_leakage=0, unmasked_pii=0, data_card=True, paths={"train": "train.jsonl"}
)


def record(number):
    turns = [("system", "Be brief."), ("user", f"when: 0{number}:00"), ("assistant", f"At 0{number}:00.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"id": str(number), "key": str(number), "messages": messages}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A tiny model over-trained with four canaries, and its folder."""
    folder = tmp_path_factory.mktemp("canaries")
    write_jsonl(folder / "train.jsonl", map(record, range(4)))
    write_jsonl(folder / "validation.jsonl", map(record, range(4, 6)))
    changed = {"method": "full", "canaries": 4, "epochs": 60, "batch_size": 8, "learning_rate": 3e-3, "max_examples": 4}
    train = Train.model_validate({**tiny.train.model_dump(), **changed})
    tune(
        train,
        folder / "train.jsonl",
        folder / "validation.jsonl",
        folder / "run",
        seed=5,
        root=folder,
        log=lambda metrics, step: None,
    )
    return train, folder / "run"


def test_canaries_are_written_beside_the_model_and_are_no_training_rows(trained):
    _, folder = trained
    canaries = read_records(folder / "canaries.jsonl")
    assert [canary.id for canary in canaries] == [f"canary-{n}" for n in range(4)]
    assert all(canary.origin["secret"] in canary.completion for canary in canaries)
    assert set(json.loads((folder / "records.json").read_text())) == {"0", "1", "2", "3"}
    assert json.loads((folder / "result.json").read_text())["examples"] == 8


def test_a_model_that_was_trained_too_long_gives_its_canaries_away_and_its_base_does_not(trained, tiny, tmp_path):
    train, folder = trained
    config = load(PROJECT, overrides=["probes.exposure.candidates=63"])
    canaries = tuple(read_records(folder / "canaries.jsonl"))

    def exposure(model):
        test = [Record.model_validate(record(7))]
        scene = Scene(Local("m", model), config.probes, config.data.clean.pii, tmp_path, DATA, test, canaries=canaries)
        return probe(scene, ["exposure"]).estimates["exposure"]

    over, base = exposure(load_tuned(train, folder / "tuned", PROJECT)), exposure(load_base(tiny.train, PROJECT))
    assert over.low > 4 and over.high <= 6 + 1e-9  # of log2(64)
    assert base.value < 3 and base.n == 4


def test_canaries_need_a_method_that_learns_completions():
    with pytest.raises(ConfigError, match="canaries are learned as completions, and dpo learns from judgements"):
        load(PROJECT, overrides=["train.method=dpo", "train.canaries=2"])
