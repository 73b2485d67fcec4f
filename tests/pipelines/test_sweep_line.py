"""A search through the command line, killed and gone on with, then looked for in MLflow."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

from mlflow import MlflowClient

from forgeline.config import load


def test_a_killed_sweep_goes_on_and_is_one_run_with_a_nested_run_a_trial(smoke_project, tiny_model):
    root = smoke_project.root
    options = ["--profile", "smoke", "--set", f"train.model.source={tiny_model}", "--set", "train.max_examples=24"]
    search = ["--set", "sweep.trials=2", "--set", "sweep.space.train.learning_rate=[1.0e-3, 1.0e+30]"]
    command = [sys.executable, "-c", "from forgeline.cli import main; main()", "sweep", *options, *search]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=root, env=smoke_project.env, **quiet) as process:
        deadline = time.monotonic() + 300
        while not list(root.glob(".forgeline/sweeps/*/trial-002/trial.json")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finished = smoke_project.forgeline("sweep", *options, *search, "--json")
    assert finished.returncode == 0, finished.stderr
    assert "running" not in next(line for line in finished.stderr.splitlines() if line.startswith("trial 1 of 2"))

    told = json.loads(finished.stdout)
    trials = {trial["number"]: trial for trial in told["trials"]}
    states = [trial["state"] for trial in told["trials"]]
    assert trials.keys() == {1, 2} and states == ["finished", "failed"]
    best = told["trials"][0]
    words = shlex.split(told["command"])
    assert words[:2] == ["forgeline", "train"] and words[-1] == f"train.batch_size={best['values']['train.batch_size']}"
    winner = load(root, words[3], overrides=words[5::2])
    assert winner.train.learning_rate == best["values"]["train.learning_rate"]

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    [sweep] = client.search_runs(
        [client.get_run(told["mlflow_run"]).info.experiment_id], "tags.forgeline.kind = 'sweep'"
    )
    assert sweep.info.status == "FINISHED"
    assert sweep.data.metrics["validation_loss"] == best["tuned"]["validation_loss"]
    nested = client.search_runs(
        [sweep.info.experiment_id], f"tags.mlflow.parentRunId = '{sweep.info.run_id}'", order_by=["start_time"]
    )
    assert [run.info.run_name for run in nested] == ["trial-1", "trial-2"]
    for number, run in enumerate(nested, start=1):
        assert run.data.params == {key: str(value) for key, value in trials[number]["values"].items()}
        if trials[number]["state"] == "finished":
            assert run.info.status == "FINISHED" and run.data.metrics["train_tokens_per_second"] > 0
            assert run.data.metrics["validation_loss"] == trials[number]["tuned"]["validation_loss"]
            assert len(client.get_metric_history(run.info.run_id, "loss")) >= trials[number]["tuned"]["steps"]
        else:
            assert run.info.status == "FAILED"
            assert run.data.tags["forgeline.reason"] == trials[number]["reason"]
