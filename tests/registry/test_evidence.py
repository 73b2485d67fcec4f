import json
from pathlib import Path

import pytest
import typer

from forgeline.cli.approve import approve
from forgeline.cli.gate import gate
from forgeline.config import load
from forgeline.data.versions import DataVersion
from forgeline.errors import LedgerError, RegistryError
from forgeline.evaluation import Report
from forgeline.evaluation.bootstrap import Estimate
from forgeline.evaluation.report import Row
from forgeline.registry import evidence, people, probes, promotion, tracking, versions
from forgeline.registry.gates import judge

PROJECT = Path(__file__).parents[2]
ROW = Row(id="1", prompt="p", references=["r"], reply="r", tokens=1, stopped=True, groups={})
REPORT = Report(
    model="m", at="2026-11-01T00:00:00+00:00", test_digest="d", vocabulary="v", signature="s", settings={}, metrics={},
    not_measured={}, seconds={}, rows=[ROW], statistics={},
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

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(root)  # where MLflow puts its artifacts
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

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

    yield register
    monkeypatch.undo()


def judged(config, version):
    return {verdict.gate: verdict for verdict in judge(config.policy, evidence.gather(config, version))}


def store(config, version, path, data_digest="d", **estimates):
    """Store with a version's run what a probe or people found."""
    found = {
        name: Estimate(value=v, low=v - 0.01, high=v + 0.01, n=200, confidence=0.95) for name, v in estimates.items()
    }
    measured = evidence.Measured(
        at="2026-11-01T00:00:00+00:00",
        data_digest=data_digest,
        estimates=found,
        not_measured={"exposure": "no canaries"},
    )
    with tracking.run(config.project, "candidate", version.lineage.key, {}) as run:
        run.settings(measured.model_dump(mode="json"), path)


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
def test_the_base_models_licence_must_permit_the_use(candidate, overrides, outcome, reason):
    verdict = judged(*candidate(*overrides))["license_permits_use"]
    assert verdict.outcome == outcome and reason in verdict.reason


def test_what_probes_and_people_measured_is_evidence_once_it_is_there(candidate):
    gates = {"toxicity": "max: 0.1", "exposure": "max: 3", "human_win_rate": "min: 0.5", "cost_money": "max: 1"}
    rules = [f"policy.gates.{name}={{evidence: {name}, {bound}}}" for name, bound in gates.items()]
    config, version = candidate("train.max_examples=11", *rules)
    before = judged(config, version)
    assert {before[name].outcome for name in gates} == {"unknown"}
    assert f"`forgeline probe {version.number}` measures it" in before["toxicity"].change
    assert "people judge it on blind sheets" in before["human_win_rate"].change

    store(config, version, probes.PROBES, toxicity=0.05)
    store(config, version, people.PEOPLE, human_win_rate=0.45)
    with tracking.run(config.project, "candidate", version.lineage.key, {}) as run:
        run.metrics({"cost_money": 0.5})
    after = judged(config, version)
    assert {name: after[name].outcome for name in gates} == {
        "toxicity": "pass", "exposure": "unknown", "human_win_rate": "fail", "cost_money": "pass"
    }  # fmt: skip
    assert "no canaries" in after["exposure"].reason

    store(config, version, probes.PROBES, data_digest="another", toxicity=0.05)
    stale = judged(config, version)["toxicity"]
    assert stale.outcome == "unknown" and "measured with data another" in stale.reason


OF_OTHER_PROMPTS = REPORT.model_copy(update={"test_digest": "before"}).model_dump(mode="json")


@pytest.mark.parametrize("theirs", [OF_OTHER_PROMPTS, {"model": "of an older Forgeline"}], ids=["prompts", "older"])
def test_a_champion_that_cannot_be_scored_again_leaves_the_verdict_open(candidate, theirs):
    config, first = candidate("train.max_examples=12")
    config, second = candidate("train.max_examples=13")
    with tracking.run(config.project, "candidate", first.lineage.key, {}) as run:
        run.settings(theirs, versions.REPORT)
    versions.set_alias(config.project, versions.CHAMPION, first)
    verdict = judged(config, second)["bleu_keeps_up_with_champion"]
    assert verdict.outcome == "unknown"
    assert f"version {first.number}, the champion, cannot be scored again: " in verdict.reason
    assert "artifact tuned is gone" in verdict.reason


def test_an_approval_stands_for_one_version_and_one_role(candidate, monkeypatch, capsys):
    rules = ["policy.gates.owner={approval: owner}", "policy.gates.risk={approval: risk}"]
    config, version = candidate("train.max_examples=14", *rules)
    monkeypatch.setattr("forgeline.config.load", lambda **options: config)
    monkeypatch.setattr("forgeline.cli.environment.enter", lambda root: None)
    with pytest.raises(RegistryError, match="asks for an approval by 'onwer'; they ask for owner, risk"):
        approve(str(version.number), "onwer", "why")
    approve(str(version.number), "owner", "read fifty replies")
    assert f"version {version.number} is approved as owner by " in capsys.readouterr().out
    entry = promotion.ledger(config).verify()[-1]
    assert (entry.action, entry.facts["reason"]) == ("approved", "read fifty replies")

    before = versions.champion(config.project)
    with pytest.raises(typer.Exit) as left:
        gate(str(version.number), explain=True)
    assert left.value.exit_code == 4 and versions.champion(config.project) == before
    said = capsys.readouterr().out
    assert "owner: {approval: owner}\n  pass: approved as owner by " in said
    assert f"whoever is risk approves it: `forgeline approve {version.number} --role risk --reason …`" in said
    with pytest.raises(typer.Exit):
        gate(str(version.number), as_json=True)
    told = {each["gate"]: each for each in json.loads(capsys.readouterr().out)["verdicts"]}
    assert (told["owner"]["outcome"], told["risk"]["outcome"]) == ("pass", "unknown")
    assert told["risk"]["rule"] == {"approval": "risk"}

    _, other = candidate("train.max_examples=15", *rules)
    assert judged(config, other)["owner"].outcome == "unknown"
    book = promotion.ledger(config).path
    book.write_text(book.read_text().replace("fifty", "no"))
    with pytest.raises(LedgerError, match="was altered"):
        judged(config, version)
