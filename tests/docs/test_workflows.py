"""The workflows: three linters, and the branch on the exit codes run as the runner runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    "linter",
    [
        ["actionlint"],  # with shellcheck, which it finds on the path
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ["zizmor", "--offline", "--quiet", "--config", ".github/zizmor.yml"],  # injection, permissions, pins
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(linter: list[str]) -> None:
    command = [*linter, *map(str, WORKFLOWS)]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def steps() -> dict[str, Any]:
    workflow = yaml.safe_load((PROJECT / ".github/workflows/retrain.yml").read_text())
    return {step["name"]: step for step in workflow["jobs"]["retrain"]["steps"] if "name" in step}


def run_step(step: dict[str, Any], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as the runner does, with the programs of `folder/bin` before all others."""
    given = dict.fromkeys(step["env"], "") | env  # a secret that is not set is an empty string
    search = f"{folder / 'bin'}{os.pathsep}{PATH}"
    files = {name: str(folder / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, **given, **files, "PATH": search},
        capture_output=True,
        text=True,
        check=False,
    )


def put_program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 0), (4, 4), (1, 1)])
def test_the_job_fails_for_a_refusal_and_an_error_only(
    steps: dict[str, Any], tmp_path: Path, code: int, status: int
) -> None:
    put_program(tmp_path, "forgeline", f'echo "$@"; exit {code}')
    done = run_step(steps["Run the line"], tmp_path, SHARED="true")
    assert done.returncode == status
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == f"code={code}\n"
    assert (tmp_path / "run.json").read_text() == "run --if-changed --no-deploy --json\n"


def test_a_profile_is_one_argument_whatever_it_holds(steps: dict[str, Any], tmp_path: Path) -> None:
    put_program(tmp_path, "forgeline", 'printf "%s\\n" "$@"')
    run_step(steps["Run the line"], tmp_path, SHARED="true", PROFILE="$(touch made); x")
    assert (tmp_path / "run.json").read_text().splitlines()[-2:] == ["--profile", "$(touch made); x"]
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("shared", "seen"), [("true", ["https://tracking"]), ("false", [])])
def test_only_main_reaches_the_shared_stores(
    steps: dict[str, Any], tmp_path: Path, shared: str, seen: list[str]
) -> None:
    put_program(tmp_path, "forgeline", "env | sed -n 's/^MLFLOW_TRACKING_URI=//p; s/^ZENML_STORE_URL=//p'")
    run_step(steps["Run the line"], tmp_path, SHARED=shared, MLFLOW_TRACKING_URI="https://tracking")
    assert (tmp_path / "run.json").read_text().splitlines() == seen


def test_the_data_are_pulled_from_the_remote(steps: dict[str, Any], tmp_path: Path) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run(["dvc", *arguments, "--quiet"], cwd=tmp_path, env={**os.environ, "PATH": PATH}, check=True)

    rows, store = tmp_path / "rows.jsonl", tmp_path / "store"
    rows.write_text("{}\n")
    dvc("init", "--no-scm")
    dvc("add", rows.name)
    dvc("remote", "add", "--default", "before", str(store))
    dvc("push")
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    rows.unlink()

    done = run_step(steps["Pull the data"], tmp_path, DVC_REMOTE_URL=str(store), DVC_REMOTE_OPTIONS="verify true\n")
    assert done.returncode == 0, done.stderr
    assert rows.read_text() == "{}\n"
    assert "verify = true" in (tmp_path / ".dvc" / "config.local").read_text()
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == "remote=true\n"


def test_without_a_remote_there_is_nothing_to_pull(steps: dict[str, Any], tmp_path: Path) -> None:
    assert run_step(steps["Pull the data"], tmp_path).returncode == 0
    assert not (tmp_path / "GITHUB_OUTPUT").exists()


def test_what_the_remotes_kind_needs_is_installed(steps: dict[str, Any], tmp_path: Path) -> None:
    put_program(tmp_path, "pip", 'echo "$@" > installed')
    put_program(tmp_path, "dvc", 'echo "$@" >> asked')
    options = "endpointurl https://store\nsecret_access_key a b"
    run_step(steps["Pull the data"], tmp_path, DVC_REMOTE_URL="s3://bucket/data", DVC_REMOTE_OPTIONS=options)
    assert (tmp_path / "installed").read_text() == "install -c requirements.lock dvc[s3]\n"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "remote add --local --default shared s3://bucket/data",
        "remote modify --local shared endpointurl https://store",
        "remote modify --local shared secret_access_key a b",
        "pull --allow-missing",
    ]
