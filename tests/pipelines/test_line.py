"""The whole line, run once with the smoke profile on the real model, then asked what a user would ask."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from openai import OpenAI

from forgeline.cli.chain import from_record
from forgeline.config import load
from forgeline.errors import DataError
from forgeline.serving.targets import TARGETS


def answer(project, *arguments):
    finished = project.forgeline(*arguments, "--json")
    return finished.returncode, json.loads(finished.stdout), finished


def test_the_first_run_ends_with_an_evidenced_champion_that_answers(smoke_project):
    result = json.loads((smoke_project.root / "run.json").read_text())
    assert (result["action"], result["version"], result["champion"]) == ("promoted", 1, 1)
    counts = result["data"]["counts"]
    assert counts["raw"] == 28894 == counts["kept"] + counts["quarantined"] + counts["merged"]
    assert {verdict["outcome"] for verdict in result["verdicts"]} == {"pass"}
    bleu = result["scores"]["bleu"]
    assert bleu["base"]["value"] < bleu["candidate"]["low"]
    assert bleu["difference"]["low"] > 0
    client = OpenAI(base_url=result["endpoint"], api_key=smoke_project.key(), max_retries=0)
    reply = client.chat.completions.create(
        model="reply-writer", messages=[{"role": "user", "content": "act: general-bye"}]
    )
    assert reply.choices[0].message.content and reply.usage.completion_tokens > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_that_the_summary_prints_works(smoke_project):
    command = json.loads((smoke_project.root / "run.json").read_text())["curl"]
    said = smoke_project.run("bash", "-c", command)
    assert json.loads(said.stdout)["choices"][0]["message"]["content"]


def test_an_unchanged_project_is_not_run_again(smoke_project):
    code, result, finished = answer(smoke_project, "run", "--profile", "smoke", "--if-changed")
    assert (code, result["action"], result["champion"]) == (3, "unchanged", 1)
    assert "tuned on" not in finished.stderr


def test_a_second_run_reuses_every_step(smoke_project):
    code, result, finished = answer(smoke_project, "run", "--profile", "smoke")
    assert (code, result["version"]) == (0, 1)
    assert "tuned on" not in finished.stderr and "registered" not in finished.stderr


def test_mlflow_and_zenml_show_the_runs_bare_from_the_project_folder(smoke_project):
    listed = smoke_project.run("zenml", "pipeline", "runs", "list")
    assert "training" in listed.stdout and "deployment" in listed.stdout
    code = "import mlflow; print(mlflow.search_runs(search_all_experiments=True)['tags.forgeline.kind'].tolist())"
    found = smoke_project.run("python", "-c", code)
    assert "candidate" in found.stdout and "base" in found.stdout


def test_the_run_says_what_training_cost_and_shows_its_curves(smoke_project):
    code, [run], _ = answer(smoke_project, "runs")
    assert code == 0
    assert (run["status"], run["currency"], run["machine"]) == ("finished", "USD", "laptop")
    assert run["minutes"] > 0 and run["kwh"] > 0 and run["peak_memory_gb"] > 0.3
    assert run["money"] == pytest.approx(run["minutes"] / 60 * 0.05)
    assert run["validation_loss"] > 0 and run["tokens_per_second"] > 0 and run["bleu"] > 0
    [page] = smoke_project.root.rglob("mlruns/**/training/report.html")
    assert "Finished: all 8 steps of 1 epoch over 64 examples." in page.read_text()
    assert f"{run['money']:.4f} USD" in page.read_text()


def test_a_new_price_does_not_train_again(smoke_project):
    priced = ["--set", "cost.prices.laptop=9", "--set", "cost.country=FRA"]
    code, result, finished = answer(smoke_project, "train", "--profile", "smoke", *priced)
    assert (code, result["version"]) == (0, 1)
    assert "tuned on" not in finished.stderr


def test_the_chain_of_evidence_is_walked_both_ways(smoke_project):
    _, chain, _ = answer(smoke_project, "lineage")
    trained = json.loads((smoke_project.root / "run.json").read_text())
    assert chain["version"] == 1 and chain["deployment"].startswith(f"http://127.0.0.1:{smoke_project.port}")
    assert chain["data_digest"] == trained["data"]["digest"]
    record = chain["trained_on"].split("from ")[1].split(" to ")[0]
    _, back, _ = answer(smoke_project, "lineage", "--record", record)
    assert (back["split"], back["trained_versions"], back["live_version_saw_it"]) == ("train", "1", "yes")
    assert back["source"] == chain["source_of_first"]
    with pytest.raises(DataError, match="No split of the data"):
        from_record(load(smoke_project.root), "nobody")


def test_a_live_model_is_asked_evaluated_and_reported(smoke_project):
    assert "ready" in smoke_project.forgeline("status").stdout
    assert smoke_project.forgeline("chat", "act: general-bye").stdout.strip()
    code, scored, _ = answer(smoke_project, "evaluate", "champion", "--profile", "smoke")
    told = json.loads((smoke_project.root / "run.json").read_text())["scores"]
    assert code == 0
    assert scored["metrics"]["bleu"] == told["bleu"]["candidate"]  # the same model, prompts and seed


def test_a_refused_candidate_changes_nothing_and_a_rollback_restores(smoke_project):
    other = ["--profile", "smoke", "--set", "train.max_examples=24"]
    code, refused, _ = answer(smoke_project, "run", *other, "--set", "policy.gates.bleu_floor.min=99")
    assert (code, refused["action"], refused["version"], refused["champion"]) == (4, "refused", 2, 1)
    assert smoke_project.served()["version"] == "1"
    lenient = ["--set", "policy.gates.bleu_keeps_up_with_champion.margin=100"]
    code, promoted, _ = answer(smoke_project, "promote", "2", *other, *lenient)
    assert (code, promoted["promoted"]) == (0, True)
    back = smoke_project.forgeline("rollback", "--reason", "replies got shorter")
    assert back.returncode == 0 and "version 1 is champion again (was 2)" in back.stdout
    actions = [entry["action"] for entry in answer(smoke_project, "ledger", "verify")[1]]
    assert actions == ["promoted", "key created", "deployed", "refused", "promoted", "rolled back"]


def test_a_version_is_brought_up_beside_the_live_one_promoted_and_taken_back(smoke_project):
    tried = smoke_project.forgeline(
        *("rollout", "start", "2", "--mode", "canary", "--share", "0.5", "--reason", "another size"),
        *("--profile", "smoke", "--set", "train.max_examples=24"),
    )
    assert tried.returncode == 0, tried.stderr
    assert "version 2 on transformers, canary 50%" in tried.stdout
    assert smoke_project.served()["version"] == "1"
    _, found, _ = answer(smoke_project, "rollout", "status")
    assert (found["live"]["version"], found["rollout"]["state"]) == ("1", "running")
    again = smoke_project.forgeline("rollout", "promote", "--reason", "it is as good")
    assert again.returncode == 0, again.stderr
    assert smoke_project.served()["version"] == "2"
    assert "version 2: ready" in smoke_project.forgeline("status").stdout
    back = smoke_project.forgeline("rollout", "rollback", "--reason", "for the other tests")
    assert back.returncode == 0, back.stderr
    assert smoke_project.served()["version"] == "1"
    refused = smoke_project.forgeline("rollout", "abort", "--reason", "there is none")
    assert (refused.returncode, refused.stderr.strip()) == (1, "error: There is no roll-out to abort: start one.")


IMAGE = "registry.example.org/forgeline@sha256:" + "a" * 64
ROLE = "arn:aws:iam::123456789012:role/serving"
CLOUDS = f"""
serve:
  store: postgresql+psycopg://${{env:DB_USER}}:${{env:DB_PASSWORD}}@db.example.org/gateway
  targets:
    pushed: {IMAGE}
    sagemaker: {{region: eu-central-1, role: "{ROLE}", instance_type: ml.g5.xlarge}}
    aws_lambda: {{region: eu-central-1, role: "{ROLE}", memory: 10240, disk: 4096}}
    vertex: {{project: shop, region: europe-west4, machine_type: g2-standard-8, accelerator: NVIDIA_L4}}
    cloudrun:
      {{project: shop, region: europe-west4, service_account: serving@shop.iam.gserviceaccount.com, cpu: 8, memory: 32,
        secrets: {{DB_USER: db-user, DB_PASSWORD: db-password}}}}
    azureml:
      {{subscription: 00000000-0000-0000-0000-000000000000, resource_group: serving, workspace: shop,
        location: westeurope, instance_type: Standard_NC24ads_A100_v4}}
    skypilot: {{accelerators: "L4:1"}}
"""
PLANNED = {
    "systemd": "",
    "compose": "compose",
    **dict.fromkeys(("kubernetes", "helm", "kserve", "kuberay"), "cluster"),
    **dict.fromkeys(("sagemaker", "lambda", "vertex", "cloudrun", "azureml", "skypilot"), "clouds"),
}
# All by one process, for importing what a deployment needs takes longer than planning one.
PLAN_ALL = """
import json, sys
from forgeline.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["forgeline", *arguments]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    print("ended", arguments[2], code, flush=True)
"""


def test_each_target_says_what_it_would_make_and_that_nothing_is_there_yet(smoke_project):
    assert {*PLANNED} == {*TARGETS} - {"local", "edge"}  # one is there, and the other takes what `optimise` admitted
    (smoke_project.root / "configs/profiles/clouds.yaml").write_text(CLOUDS)
    profiles = {target: ["--profile", profile] if profile else [] for target, profile in PLANNED.items()}
    plans = [["deploy", "--target", target, "--dry-run", *profiles[target]] for target in PLANNED]
    logs = [["deploy", "--target", target, "logs"] for target in PLANNED]
    script = smoke_project.root / "plan_all.py"  # in a file, by which ZenML knows the project's folder
    script.write_text(PLAN_ALL)
    told = smoke_project.run(sys.executable, script.name, json.dumps(plans + logs))
    assert told.returncode == 0, told.stderr
    for target in PLANNED:
        # SkyServe's load balancer is on the open network.
        refused = target == "skypilot"
        assert f"ended {target} {int(refused)}" in told.stdout, told.stderr
        assert (f"# {target} (" in told.stdout) is not refused
        assert f"Nothing is deployed to {target}." in told.stdout
    assert "serve.access.tls: SkyServe's load balancer is on the open network" in told.stderr


def test_an_unknown_alias_is_one_sentence(smoke_project):
    failed = smoke_project.forgeline("deploy", "chmpion")
    assert failed.returncode == 1
    assert (
        failed.stderr.strip()
        .splitlines()[-1]
        .startswith("error: reply-writer has no version or alias 'chmpion'; there are: 1")
    )
    assert "Traceback" not in failed.stderr


def test_a_failing_step_is_one_sentence_and_loses_nothing(smoke_project):
    failed = smoke_project.forgeline("run", "--profile", "smoke", "--set", "train.max_tokens=3")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "64 of 64 records are longer than train.max_tokens=3" in failed.stderr.strip().splitlines()[-1]
    assert smoke_project.served()["version"] == "1"
