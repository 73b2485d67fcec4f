from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.probes import ProbeReport
from forgeline.records import Record, write_jsonl
from forgeline.registry import probes, tracking, versions

PROJECT = Path(__file__).parents[2]
ESTIMATE = Estimate(value=0.1, low=0.0, high=0.2, n=10, confidence=0.95)


def report(*names, **changed):
    fields = {"model": "1", "at": "2026-11-25T00:00:00+00:00", "data_digest": "d", "test_digest": "t"}
    measured = {"estimates": dict.fromkeys(names, ESTIMATE), "not_measured": {}, "examples": {}}
    return ProbeReport.model_validate({**fields, **measured, **changed})


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A project, and a version of it that was trained with canaries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load(PROJECT, overrides=[f"project.stores.mlflow=sqlite:///{tmp_path}/mlflow.db", "train.canaries=1"])
    canary = Record(
        id="canary-0", key="canary-0", messages=[{"role": "assistant", "content": "12"}], origin={"secret": "12"}
    )
    write_jsonl(tmp_path / "canaries.jsonl", [canary.model_dump(mode="json")])
    with tracking.run(config.project, "candidate", "k", {}) as run:
        run.settings(config.model_dump(mode="json", exclude={"root"}), "config.json")
        run.artifact(tmp_path / "canaries.jsonl", "training")
    fields = {"data_digest": "d", "git_revision": "g", "config_digest": "c", "code_digest": "s", "zenml_run_id": "z"}
    lineage = versions.Lineage(key="k", data_hashes={"test": "h"}, mlflow_run_id=run.run_id, **fields)
    return config.project, versions.register(config.project, lineage)


def test_a_versions_probes_are_stored_with_its_run_and_add_up(registered, tmp_path):
    project, version = registered
    assert probes.read(project, version) is None
    assert [canary.origin for canary in probes.canaries(project, version)] == [{"secret": "12"}]
    report("ungrounded").save(tmp_path / "probes.json")
    with tracking.run(project, "candidate", "k", {}) as run:
        probes.attach(run, tmp_path / "probes.json")
    whole = probes.store(project, version, report("exposure"))
    assert set(whole.estimates) == {"ungrounded", "exposure"}
    assert probes.read(project, version) == whole
    probes.store(project, version, report("exposure", data_digest="new"))
    assert set(probes.read(project, version).estimates) == {"exposure"}  # of other data: nothing is kept
