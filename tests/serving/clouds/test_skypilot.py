"""SkyPilot, which is not in this environment, as a program of its own that keeps services in a file.

It stands in for SkyPilot's Python API at the calls that `sky_side.py` makes; the task was also held against the schemas
of the real 0.14.1 (docs/targets/skypilot.md).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Smoke
from fronts import front

from forgeline.errors import ServingError
from forgeline.serving.targets import remembered
from forgeline.serving.targets.clouds.skypilot import Skypilot

STORE = "postgresql+psycopg://${env:DB_USER}:${env:DB_PASSWORD}@db.internal/gateway"
TLS = {"certificate": "/certs/chain.pem", "key": "/certs/key.pem"}
STAND_IN = """
import json, os, pathlib, enum
__version__ = "0.14.1"
FILE = pathlib.Path(os.environ["SKY_FILE"])
def held(): return json.loads(FILE.read_text()) if FILE.exists() else {}
def keep(services): FILE.write_text(json.dumps(services))
def get(request): return request
stream_and_get = get
class Task:
    @staticmethod
    def from_yaml_config(config, secrets_overrides=None):
        given = {**config["secrets"], **dict(secrets_overrides or [])}
        assert not [name for name, value in given.items() if value is None], "a secret without a value"
        return config
class Status(enum.Enum):
    READY = "READY"; FAILED = "FAILED_PROBING"
class serve:
    class UpdateMode(enum.Enum): BLUE_GREEN = "blue_green"
    class ServiceComponent(enum.Enum): REPLICA = "replica"
    @staticmethod
    def up(task, service_name):
        keep({**held(), service_name: {"version": 1, "task": task}})
    @staticmethod
    def update(task, service_name, mode):
        services = held(); old = services[service_name]
        services[service_name] = {"version": old["version"] + 1, "task": task}; keep(services)
    @staticmethod
    def status(names):
        found = [held()[name] for name in names if name in held()]
        bad = os.environ.get("SKY_FAILS") == "1"
        return [{"status": Status.READY, "endpoint": os.environ["SKY_FRONT"], "active_versions": [each["version"]],
                 "replica_info": [{"replica_id": 1, "version": each["version"],
                                   "status": Status.FAILED if bad and each["version"] > 1 else Status.READY}]}
                for each in found]
    @staticmethod
    def down(names):
        keep({name: each for name, each in held().items() if name not in names})
    @staticmethod
    def tail_logs(name, target, replica_id, follow, output_stream, tail):
        output_stream.write("".join(f"line {number}\\n" for number in range(tail)))
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    (tmp_path / "packages" / "sky").mkdir(parents=True)
    (tmp_path / "packages" / "sky" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "packages" / "sky" / "utils.py").write_text(
        "class common_utils:\n    validate_schema = staticmethod(lambda part, schema, about: None)\n"
        "class schemas:\n    get_task_schema = get_service_schema = get_resources_schema = staticmethod(dict)\n"
    )
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "packages"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("DB_USER", "gateway")
    monkeypatch.setenv("DB_PASSWORD", "s3cr3t-word")
    monkeypatch.setenv("SKY_FILE", str(tmp_path / "sky.json"))
    monkeypatch.setattr("forgeline.serving.targets.clouds.skypilot.pinned", lambda tls: None)
    with front() as url:
        monkeypatch.setenv("SKY_FRONT", url)
        yield {
            "targets": {"skypilot": {"environment": "env", "accelerators": "L4:1"}},
            "store": STORE,
            "access": {"tls": TLS},
        }


def deploy(job: Any) -> dict[str, Any]:
    target = Skypilot(interval=0.01)
    return target.deploy(job, target.plan(job))


def held() -> Any:
    return json.loads(Path(os.environ["SKY_FILE"]).read_text())


def test_a_version_comes_changes_and_goes(asked: dict[str, Any], make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Skypilot(interval=0.01)
    first = make("3", **json.loads(json.dumps(asked)))
    root = first.config.root
    made = deploy(first)
    assert first.smoke.asked == [made["url"]]
    deploy(make("4", **json.loads(json.dumps(asked))))
    running = target.status(root)
    assert running is not None
    assert (running.health, running.version, running.facts["replicas"]) == ("ready", "4", "1 ready of 1")
    fourth = held()[made["name"]]["task"]
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(make("5", smoke=Smoke(passes=False), **json.loads(json.dumps(asked))))
    assert held()[made["name"]]["task"] == fourth  # updated back
    assert remembered(root, "skypilot")["version"] == "4"  # type: ignore[index]
    assert list(target.logs(root, 2)) == ["line 0\n", "line 1\n"]
    assert target.destroy(root) == {"service": made["name"]}
    assert held() == {}
    assert target.destroy(root) is None
    assert "s3cr3t-word" not in json.dumps(made)


def test_spot_replicas_fall_back_to_others(asked: dict[str, Any], make: Any) -> None:
    task = yaml.safe_load(Skypilot().plan(make(**asked)).files["service.yaml"])
    assert task["resources"] == {"accelerators": "L4:1", "cpus": "4+", "memory": "16+", "use_spot": True, "ports": 8080}
    policy = task["service"]["replica_policy"]
    assert (policy["min_replicas"], policy["max_replicas"], policy["target_qps_per_replica"]) == (2, 4, 4.0)
    assert (policy["dynamic_ondemand_fallback"], policy["base_ondemand_fallback_replicas"]) == (True, 1)
    assert task["secrets"] == {"DB_USER": None, "DB_PASSWORD": None}
    assert "--read-only" in task["run"]


def test_without_skypilot_or_a_certificate(make: Any) -> None:
    job = make(targets={"skypilot": {}}, store=STORE, access={"tls": TLS})
    plan = Skypilot().plan(job)
    assert plan.checks[0].against == "nothing: SkyPilot is not in .forgeline/engines/skypilot"
    with pytest.raises(ServingError, match=r"needs SkyPilot in .*: python -m venv .*pip install"):
        Skypilot().deploy(job, plan)
    with pytest.raises(ServingError, match=r"serve.access.tls: SkyServe's load balancer is on the open network"):
        Skypilot().plan(make(targets={"skypilot": {}}, store=STORE))
