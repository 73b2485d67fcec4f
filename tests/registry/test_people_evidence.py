"""What people said, kept with a version; and the leaderboard of all versions."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from forgeline import cli
from forgeline.config import load
from forgeline.data.versions import DataVersion
from forgeline.evaluation import Report
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import Bleu
from forgeline.evaluation.report import Row
from forgeline.registry import evidence, leaderboard, promotion, tracking, versions

PROJECT = Path(__file__).parents[2]
REFERENCES = [[f"The train leaves at 0{n}:00 from Cambridge."] for n in range(10)]
DATA = DataVersion(
    digest="data", hashes={"test": "h"}, counts={}, test_leakage=0, unmasked_pii=0, data_card=True,
    paths={"card": "reports/card.md"},
)  # fmt: skip


def report(name: str, right: int, test: str = "prompts") -> Report:
    """Return the report of a model that answers the first `right` of ten prompts as people did."""
    replies = [refs[0] if n < right else f"{name} knows no train at all" for n, refs in enumerate(REFERENCES)]
    table = Bleu().statistics(predictions=replies, references=REFERENCES)
    plain = {"tokens": 5, "stopped": True, "groups": {}}
    rows = [
        Row(id=str(n), prompt=f"leave: 0{n}:00", references=REFERENCES[n], reply=reply, **plain)
        for n, reply in enumerate(replies)
    ]
    return Report(
        model=name, at="2026-11-01T00:00:00+00:00", test_digest=test, vocabulary="v", signature="s",
        settings={"bleu": {}}, metrics={"bleu": interval(Bleu(), np.array(table), 200, 0.95, 1)}, not_measured={},
        seconds={"generate": 1.0}, rows=rows, statistics={"bleu": table.tolist()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A registry of four versions: three on the same prompts, the newest on others."""
    root = tmp_path_factory.mktemp("people")
    (root / "reports").mkdir()
    (root / "reports/card.md").write_text("a card")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # where MLflow puts its artifacts
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shipped = load(PROJECT, overrides=[f"project.stores.mlflow=sqlite:///{root}/mlflow.db"])
        config = shipped.model_copy(update={"root": root})
        report("base", 0).save(root / "base.json")
        report("base", 0, "others").save(root / "base-others.json")
        for key, right, test in [("a", 4, "prompts"), ("b", 9, "prompts"), ("c", 8, "prompts"), ("d", 10, "others")]:
            report("candidate", right, test).save(root / f"{key}.json")
            base = root / ("base.json" if test == "prompts" else "base-others.json")
            with tracking.run(config.project, key, key, {"forgeline.kind": "candidate"}) as run:
                run.evaluation(report("candidate", right, test), 5)
                run.metrics({"cost_seconds": 90.0, "cost_money": 0.25})
                run.tags({"forgeline.cost.currency": "EUR"})
                evidence.attach(run, config, DATA, base, root / f"{key}.json")
            lineage = versions.Lineage.of(config, DATA, key, run.run_id, "z")
            versions.register(config.project, lineage)
        versions.set_alias(config.project, "champion", versions.get(config.project, "2"))
        yield config


@pytest.fixture
def forgeline(config, monkeypatch):
    """Return a function that types a command in this project, and fails if the command does."""
    monkeypatch.chdir(config.root)
    monkeypatch.setattr("forgeline.config.load", lambda **options: config)
    monkeypatch.setattr("forgeline.cli.environment.enter", lambda root: None)

    def run(*words: str) -> int | None:
        monkeypatch.setattr(sys, "argv", ["forgeline", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code

    return run


def test_what_people_say_becomes_evidence_on_the_version(config, forgeline, capsys, tmp_path):
    assert forgeline("sheet", "export", "champion", "base", "--rows", "10", "--out", str(tmp_path / "sheet")) == 0
    assert "10 prompts: give people" in capsys.readouterr().out
    key = json.loads((tmp_path / "sheet/key.json").read_text())
    assert [(model["name"], model["version"]) for model in key["models"]] == [("champion", 2), ("base", None)]
    with (tmp_path / "sheet/sheet.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    for rater, ties in (("anna", 1), ("ben", 2)):  # who find a reply that names the time better
        with (tmp_path / f"{rater}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            for n, row in enumerate(rows):
                good = "1" if "Cambridge" in row["reply_1"] else "2" if "Cambridge" in row["reply_2"] else "bad"
                writer.writerow({**row, "verdict": "tie" if n < ties else good})
    files = [str(tmp_path / f"{rater}.csv") for rater in ("anna", "ben")]
    assert forgeline("sheet", "import", str(tmp_path / "sheet"), *files, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    version = versions.get(config.project, "2")
    stored = json.loads(versions.artifact(config.project, version, "evaluation/people.json").read_text())
    assert (stored["against"], stored["data_digest"], stored["raters"]) == ("base", "data", {"anna": 10, "ben": 10})
    win, agreement = (stored["estimates"][name] for name in ("human_win_rate", "human_agreement"))
    assert win == told["win_rates"]["base"] and 0.5 < win["low"] < win["value"] < 1
    assert stored["alpha"] == agreement["value"] > 0
    (entry,) = [one for one in promotion.ledger(config).verify() if one.action == "judged"]
    assert entry.facts["version"] == 2 and set(entry.facts["raters"]) == {"anna", "ben"}
    assert forgeline("sheet", "import", str(tmp_path / "sheet"), *files) == 0  # the same again is no new decision
    assert "kept as evidence on version 2" in capsys.readouterr().out
    assert len([one for one in promotion.ledger(config).verify() if one.action == "judged"]) == 1


def test_versions_of_other_test_prompts_are_not_set_side_by_side(forgeline, capsys, tmp_path):
    assert forgeline("sheet", "export", "champion", "4", "--out", str(tmp_path / "sheet")) == 1
    assert "champion and 4 answered different test prompts" in capsys.readouterr().err
    assert not (tmp_path / "sheet").exists()


def test_the_leaderboard_ranks_only_what_is_comparable(config, forgeline, capsys, tmp_path):
    page = tmp_path / "new/board.html"
    assert forgeline("leaderboard", "--json", "--html", str(page)) == 0
    newest, board = json.loads(capsys.readouterr().out)["boards"]
    assert [one["version"] for one in newest["standings"]] == [4]
    assert [(one["version"], one["place"]) for one in board["standings"]] == [(2, "best"), (3, "level"), (1, "behind")]
    assert board["metric"] == "bleu" and board["standings"][0]["aliases"] == ["champion"]
    assert board["standings"][2]["behind"]["high"] < 0 and board["standings"][0]["money"] == 0.25
    text = page.read_text()
    assert text.count("cannot be compared") == 2 and ">level<" in text
    assert not re.search(r"<script|https?://", text)
    assert forgeline("leaderboard") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith("# by bleu, 10 test prompts prompts")
    cells = lines[5].split("\t")
    assert (cells[:2], cells[-3:]) == (["2 champion", "best"], ["0.2500 EUR", "2026-11-01", "data"])
    assert lines[-1] == leaderboard.APART


def test_a_version_whose_report_is_gone_has_no_place(config, monkeypatch):
    def lost(project, version):
        if version.number == 3:
            raise versions.RegistryError("its report is gone")
        return report("candidate", version.number)

    monkeypatch.setattr(versions, "report", lost)
    found = leaderboard.leaderboard(config)
    assert [[one.version for one in board.standings] for board in found.boards] == [[4, 2, 1]]
    assert found.unranked == {3: "its report is gone"}
    assert "Version 3: its report is gone" in leaderboard.page(found)


def test_a_candidates_run_has_its_page(config):
    version = versions.get(config.project, "champion")
    text = versions.artifact(config.project, version, "evaluation/report.html").read_text()
    assert "<h2>Beside base</h2>" in text and "The train leaves" in text


def test_a_runs_replies_are_where_the_ui_shows_them_and_only_once(config, monkeypatch):
    monkeypatch.chdir(config.root)
    version = versions.get(config.project, "champion")
    with tracking.run(config.project, "b", "b", {}) as run:  # taken up again
        run.evaluation(report("candidate", 9), 5)
    place = run.client.get_run(run.run_id).info.experiment_id
    traces = run.client.search_traces(locations=[place], run_id=version.run_id)
    assert len(traces) == 5
    said = {trace.data.request: trace for trace in traces}[json.dumps({"prompt": "leave: 03:00"})]
    assert json.loads(said.data.response) == REFERENCES[3][0]
    found = {one.name: one for one in said.info.assessments}
    assert found["references"].value == REFERENCES[3] and found["bleu"].value == pytest.approx(100)
    table = json.loads(versions.artifact(config.project, version, "evaluation/replies.json").read_text())
    assert table["columns"] == ["prompt", "reply", "references", "stopped", "bleu"] and len(table["data"]) == 5
