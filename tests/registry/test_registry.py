from pathlib import Path

import pytest

from forgeline.cli.runs import runs
from forgeline.config import load
from forgeline.config.schema import Model, Scratch
from forgeline.errors import RegistryError
from forgeline.models import save_tuned
from forgeline.records import write_jsonl
from forgeline.registry import promotion, tracking, versions
from forgeline.registry.gates import Verdict
from forgeline.tuning.scratch import new_model

PROJECT = Path(__file__).parents[2]
PASS = [Verdict(gate="g", outcome="pass", reason="good")]
FAIL = [Verdict(gate="g", outcome="unknown", reason="no evidence")]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The shipped configuration with a registry and a ledger of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shipped = load(PROJECT)
    project = shipped.project.model_copy(
        update={"stores": shipped.project.stores.model_copy(update={"mlflow": f"sqlite:///{tmp_path}/mlflow.db"})}
    )
    return shipped.model_copy(update={"root": tmp_path, "project": project})


def make_version(config, key, tmp_path, tuned=None):
    if tuned is None:
        tuned = tmp_path / f"tuned-{key}"
        tuned.mkdir()
        (tuned / "adapter_config.json").write_text("{}")
    with tracking.run(config.project, key, key, {}) as run:
        run.artifact(tuned, "tuned")
        run.settings(config.model_dump(mode="json", exclude={"root"}), "config.json")
    fields = {"data_digest": "d", "git_revision": "g", "config_digest": "c", "code_digest": "s", "zenml_run_id": "z"}
    lineage = versions.Lineage(key=key, data_hashes={"test": "md5"}, mlflow_run_id=run.run_id, **fields)
    return versions.register(config.project, lineage)


def test_the_same_work_is_the_same_run_and_the_same_version(config, tmp_path):
    first = make_version(config, "a", tmp_path)
    with tracking.run(config.project, "again", "a", {}) as run:
        assert run.run_id == first.run_id
    assert versions.register(config.project, first.lineage) == first
    assert versions.get(config.project, "challenger") == first
    assert first.lineage.data_hashes == {"test": "md5"}


def test_an_unknown_alias_is_told_with_those_that_exist(config, tmp_path):
    with pytest.raises(RegistryError, match=r"'champion'; nothing is registered yet"):
        versions.get(config.project, "champion")
    make_version(config, "a", tmp_path)
    with pytest.raises(RegistryError, match=r"no version or alias 'chmpion'; there are: 1, challenger"):
        versions.get(config.project, "chmpion")


def test_promotion_moves_the_alias_and_every_decision_is_in_the_ledger(config, tmp_path):
    first, second = make_version(config, "a", tmp_path), make_version(config, "b", tmp_path)
    assert promotion.promote(config, first, PASS)
    assert promotion.promote(config, first, PASS)  # champion already: nothing to decide
    assert not promotion.promote(config, second, FAIL)
    assert not promotion.promote(config, second, FAIL)  # refused for the same reasons: said once
    assert versions.champion(config.project).number == first.number
    entries = promotion.ledger(config).verify()
    assert [(entry.action, entry.facts["version"]) for entry in entries] == [("promoted", 1), ("refused", 2)]
    assert entries[1].facts["verdicts"][0]["reason"] == "no evidence"
    assert entries[0].facts["lineage"]["key"] == "a"


def test_rollback_needs_a_version_that_loads(config, tmp_path):
    first, second = make_version(config, "a", tmp_path), make_version(config, "b", tmp_path)
    with pytest.raises(RegistryError, match="no champion to roll back"):
        promotion.rollback(config, None, "why")
    promotion.promote(config, first, PASS)
    with pytest.raises(RegistryError, match="is the first champion"):
        promotion.rollback(config, None, "why")
    promotion.promote(config, second, PASS)
    with pytest.raises(RegistryError, match="does not load, so version 2 stays champion"):
        promotion.rollback(config, None, "why")  # its adapter has no weights
    assert versions.champion(config.project).number == 2
    assert [entry.action for entry in promotion.ledger(config).verify()] == ["promoted", "promoted"]


def test_a_whole_model_is_rolled_back_to_without_its_base(config, tmp_path):
    row = {"id": "1", "key": "1", "messages": [{"role": role, "content": "Hello"} for role in ("user", "assistant")]}
    write_jsonl(tmp_path / "train.jsonl", [row])
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    gone = Model(source="gone", license="none")
    train = config.train.model_copy(update={"method": "scratch", "scratch": Scratch(settings=small), "model": gone})
    config = config.model_copy(update={"train": train})
    made = new_model(train, tmp_path / "train.jsonl", PROJECT, seed=1)
    save_tuned(made.model, made.tokenizer, tmp_path / "tuned")
    first, second = make_version(config, "a", tmp_path, tmp_path / "tuned"), make_version(config, "b", tmp_path)
    assert promotion.promote(config, first, PASS) and promotion.promote(config, second, PASS)
    assert promotion.rollback(config, None, "why").facts["version"] == first.number
    assert versions.champion(config.project).number == first.number


def test_a_lost_artifact_is_told_with_its_run(config, tmp_path):
    version = make_version(config, "a", tmp_path)
    with pytest.raises(RegistryError, match=f"evaluation/report.json is gone from MLflow run {version.run_id}"):
        versions.report(config.project, version)


def test_the_fingerprint_of_the_last_run_is_remembered(config, tmp_path):
    make_version(config, "a", tmp_path)
    assert versions.last_fingerprint(config.project) is None
    versions.set_fingerprint(config.project, "f")
    assert versions.last_fingerprint(config.project) == "f"


def test_training_runs_are_listed_with_what_they_reached_and_cost(config, capsys, monkeypatch):
    kind = {"forgeline.kind": "candidate"}
    with tracking.run(config.project, "first", "a", kind) as run:
        for step in range(1, 4):
            run.metrics({"loss": 1.0 / step}, step)
        run.metrics({"validation_loss": 1.25, "train_tokens_per_second": 400.0, "bleu": 35.0})
        run.metrics({"cost_seconds": 90.0, "cost_kwh": 0.004, "cost_peak_memory_gb": 2.5, "cost_money": 0.25})
        run.tags({"forgeline.cost.currency": "EUR", "forgeline.cost.machine": "laptop"})
    with pytest.raises(KeyboardInterrupt), tracking.run(config.project, "second", "b", kind) as run:
        run.metrics({"loss": 2.0}, 1)
        raise KeyboardInterrupt
    with tracking.run(config.project, "base", "c", {"forgeline.kind": "base"}):
        pass
    first, second = tracking.training_runs(config.project)
    assert (first.name, first.status, first.validation_loss, first.bleu) == ("first", "finished", 1.25, 35.0)
    assert (first.minutes, first.kwh, first.money, first.currency) == (1.5, 0.004, 0.25, "EUR")
    assert (second.name, second.minutes, second.currency) == ("second", None, None)
    history = tracking.connect(config.project).get_metric_history
    assert [(point.step, point.value) for point in history(first.run_id, "loss")] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [point.value for point in history(second.run_id, "loss")] == [2.0]  # written though it broke off

    monkeypatch.setattr("forgeline.config.load", lambda **options: config)
    monkeypatch.setattr("forgeline.cli.environment.enter", lambda root: None)
    runs()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t")[3:] == ["1.250", "35.0", "400", "1.5", "0.0040", "2.5", "0.2500 EUR", "laptop"]
    assert lines[2].split("\t")[3:] == ["–"] * 7 + ["–"]
