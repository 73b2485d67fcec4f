"""The rendered Serve config, given to a Ray of this machine as KubeRay would give it to a cluster's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scene import HELLO, LINEAGE, PROJECT, free_port

from forgeline.config import load
from forgeline.models import base_name
from forgeline.serving import bundle as bundles
from forgeline.serving import targets
from forgeline.serving.targets import Job
from forgeline.serving.targets.kuberay import served

DRIVER = """
import json, sys, urllib.request, yaml
from forgeline.config.schema.serve.engine import Ray
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.serving.engines.ray import start

port = int(sys.argv[2])
start(Ray(name="ray"), Scaling(), port)
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

_get_global_client().deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1]))), _blocking=True)
asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", sys.argv[3].encode())
asked.add_header("content-type", "application/json")
print("ANSWER", urllib.request.urlopen(asked, timeout=120).read().decode())
serve.shutdown()
ray.shutdown()
"""


@pytest.mark.slow
def test_ray_serves_what_kuberay_would_be_given(root: Path, adapter: Path, tmp_path: Path) -> None:
    overrides = ["train.model.source=base", "train.model.license=none", "train.dtype=float32"]
    config = load(PROJECT, profile="cluster", overrides=overrides).model_copy(update={"root": root})
    bundle = bundles.build(config, adapter, LINEAGE, tmp_path / "bundles")
    work = Job(config, bundle, bundles.verify(bundle), lambda url: None)
    rendered = served(work, targets.named("kuberay").told(work))  # type: ignore[attr-defined]
    text = yaml.safe_dump(rendered).replace("/srv/bundle", str(bundle)).replace("/srv/state", str(tmp_path))
    placed = yaml.safe_load(text)
    port = free_port()
    placed |= {"http_options": {"host": "127.0.0.1", "port": port}, "proxy_location": "HeadOnly"}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(placed))
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / base_name("base")).symlink_to(root / "base")
    environment = {**os.environ, "FORGELINE_BASES": str(tmp_path / "bases"), "RAY_raylet_start_wait_time_s": "180"}
    question = json.dumps({"model": LINEAGE["model"], "messages": HELLO, "max_tokens": 3})
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "serve.yaml"), str(port), question]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (answer,) = (
        line for line in done.stdout.splitlines() if line.startswith("ANSWER ")
    )  # Ray's own lines are there too
    assert json.loads(answer.removeprefix("ANSWER "))["choices"][0]["message"]["role"] == "assistant"
