from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.data.versions import DataVersion
from forgeline.evaluation import Report
from forgeline.registry import evidence, tracking, versions
from forgeline.registry.gates import judge

PROJECT = Path(__file__).parents[2]
REPORT = Report(
    model="m", at="2026-11-01T00:00:00+00:00", test_digest="d", vocabulary="v", signature="s", settings={}, metrics={},
    not_measured={}, seconds={}, rows=[], statistics={},
)  # fmt: skip
DATA = DataVersion(
    digest="d",
    hashes={"test": "h"},
    counts={},
    test_leakage=0,
    unmasked_pii=0,
    data_card=True,
    paths={"card": "reports/card.md"},
)


@pytest.fixture(scope="module")
def candidate(tmp_path_factory):
    """Return a function that registers a version trained with these settings: the configuration and the version."""
    root = tmp_path_factory.mktemp("evidence")
    (root / "reports").mkdir()
    (root / "reports/card.md").write_text("a card")
    REPORT.save(root / "report.json")

    def register(*overrides):
        config = load(PROJECT, overrides=[f"project.stores.mlflow=sqlite:///{root}/mlflow.db", *overrides])
        config = config.model_copy(update={"root": root})
        key = config.digest()
        with tracking.run(config.project, "candidate", key, {}) as run:
            evidence.attach(run, config, DATA, root / "report.json", root / "report.json")
        fields = {"data_digest": "d", "git_revision": "g", "config_digest": "c", "code_digest": "s"}
        lineage = versions.Lineage(
            key=key, data_hashes={"test": "h"}, mlflow_run_id=run.run_id, zenml_run_id="z", **fields
        )
        return config, versions.register(config.project, lineage)

    return register


@pytest.mark.parametrize(
    ("overrides", "outcome", "reason"),
    [
        ([], "pass", "license_permits_use is 1 (Apache-2.0, for commercial use)"),
        (["train.model=qwen2.5-3b"], "fail", "license_permits_use is 0 (Qwen-Research, for commercial use)"),
        (["train.model=qwen2.5-3b", "project.use=research"], "pass", "(Qwen-Research, for research use)"),
        (["train.model.license=ours"], "unknown", "the licence ours of pypi://"),
        (["train.method=scratch", "train.model.license=none"], "pass", "a model of our own"),
    ],
)
def test_the_base_models_licence_must_permit_the_use(candidate, tmp_path, monkeypatch, overrides, outcome, reason):
    monkeypatch.chdir(tmp_path)  # where MLflow puts its artifacts
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config, version = candidate(*overrides)
    verdicts = {verdict.gate: verdict for verdict in judge(config.policy, evidence.gather(config, version))}
    verdict = verdicts["license_permits_use"]
    assert verdict.outcome == outcome and reason in verdict.reason
