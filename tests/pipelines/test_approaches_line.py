"""Approaches compared through the command line, and the recommended one registered, bundled, served and asked."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from dataclasses import replace
from secrets import token_hex

import pytest
import yaml
from mlflow import MlflowClient
from openai import OpenAI

from forgeline.ledger import Ledger
from forgeline.lineage import file_digest

SECRETS = {"SIGNING_PASSWORD": token_hex(16), "SPARE_KEY": token_hex(16)}  # not spelt out in a file that is copied


@pytest.fixture
def project(smoke_project, tmp_path):
    """A copy of the finished project with a registry, a ledger and a port of its own."""
    root = tmp_path / "project"
    gone = shutil.ignore_patterns("mlflow.db*", "mlruns", "ledger.jsonl", "deployments", "last_run.json")
    shutil.copytree(smoke_project.root, root, ignore=gone)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        copied = replace(smoke_project, root=root, port=listener.getsockname()[1])
    serve = root / "configs/serve.yaml"
    serve.write_text(serve.read_text().replace(f"port: {smoke_project.port}", f"port: {copied.port}"))
    yield copied
    copied.forgeline("stop")


def signed_with_secrets(project):
    """Ask that bundles are signed by a key with a password, beside an engine with a key; return the project."""
    project = replace(project, env=project.env | SECRETS)
    made = project.forgeline("signing-key", "release.pem", "--password", "${env:SIGNING_PASSWORD}")
    assert made.returncode == 0, made.stderr
    signing = {"key": "release.pem", "password": "${env:SIGNING_PASSWORD}", "trusted": ["release.pem.pub"]}
    spare = {"name": "url", "url": "http://127.0.0.1:9/v1", "key": "${env:SPARE_KEY}"}
    serve = yaml.safe_load((project.root / "configs/serve.yaml").read_text())
    serve |= {"signing": signing | {"required": True}, "others": {"spare": spare}}
    (project.root / "configs/serve.yaml").write_text(yaml.safe_dump(serve))
    return project


def test_the_recommended_approach_is_served_as_it_was_evaluated(project, tiny_model):
    smoke = ["--profile", "smoke", "--set", f"train.model.source={tiny_model}", "--set", "train.max_examples=24"]
    smoke += ["--set", "train.dtype=float32"]  # in which a reply does not depend on what it is batched with
    bm25 = [f"approaches.candidates.{name}.retriever=bm25" for name in ("few_shot", "retrieval", "lora_retrieval")]
    options = [*smoke, *(word for one in bm25 for word in ("--set", one))]
    only = ["--only", "few_shot", "--only", "lora_retrieval"]
    finished = project.forgeline("compare", *options, *only, "--register", "--json")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    outcomes = {one["approach"]["name"]: one for one in told["outcomes"]}
    assert outcomes.keys() == {"few_shot", "lora_retrieval"} and told["version"] == 1
    assert outcomes["few_shot"]["taken"]["prompt_tokens"] > 100
    assert outcomes["lora_retrieval"]["tuning_seconds"] > 0
    chosen = outcomes[told["recommendation"]["approach"]]
    assert "is recommended" in (project.root / told["page"]).read_text()

    client = MlflowClient(f"sqlite:///{project.root}/mlflow.db")
    parent = client.get_run(told["run_id"])
    nested = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{told['run_id']}'")
    assert {run.info.run_name: run.data.tags["forgeline.prompt"] for run in nested} == {
        "few_shot": "prompts:/reply-writer-plain/1",
        "lora_retrieval": "prompts:/reply-writer-grounded/1",
    }
    assert all(run.data.metrics["bleu"] >= 0 and run.data.metrics["latency_p95"] > 0 for run in nested)

    deployed = signed_with_secrets(project).forgeline("deploy", "challenger", *options)
    assert deployed.returncode == 0, deployed.stderr
    assert "same replies" in deployed.stdout and "signed by key" in deployed.stdout
    places = [project.root, project.env["ZENML_CONFIG_PATH"]]
    search = ["grep", "-rlE", "|".join(SECRETS.values()), *places]
    kept = subprocess.run(search, capture_output=True, text=True, check=False)
    assert (kept.returncode, kept.stdout) == (1, "")  # settings, states, logs, ledger and databases hold references
    [entry] = [entry for entry in Ledger(project.root / "ledger.jsonl").verify() if entry.action == "deployed"]
    assert file_digest(project.root / entry.facts["sbom"]["path"]) == entry.facts["sbom"]["sha256"]
    report = json.loads((project.root / chosen["report"]).read_text())
    split = (project.root / "data/splits/test.jsonl").read_text().splitlines()
    asked = next(row for row in map(json.loads, split) if row["id"] == report["rows"][0]["id"])
    api = OpenAI(base_url=f"http://127.0.0.1:{project.port}/v1", api_key=project.key(), max_retries=0)
    reply = api.chat.completions.create(model="reply-writer", messages=asked["messages"][:-1], max_tokens=24)
    assert reply.choices[0].message.content.strip() == report["rows"][0]["reply"]
    assert reply.usage.prompt_tokens > 100  # examples or facts stand before the question

    lineage = json.loads(project.forgeline("lineage", "challenger", "--json").stdout)
    assert lineage["mlflow_run"] in {run.info.run_id for run in nested}


def test_an_unknown_candidate_is_one_sentence(smoke_project):
    failed = smoke_project.forgeline("compare", "--only", "lorra")
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].startswith("error: --only lorra: no such candidate; legal: plain")
