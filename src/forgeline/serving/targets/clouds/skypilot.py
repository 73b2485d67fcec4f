"""A service of SkyPilot: replicas on whatever cloud has the machine, spot instances too, behind its load balancer.

SkyPilot's dependencies clash with ours, so it has an environment of its own, and is asked through `sky_side.py`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from forgeline.errors import ServingError
from forgeline.serving.gateway.access.tls import pinned
from forgeline.serving.scaling import render
from forgeline.serving.targets import Check, Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import (
    COMMAND,
    PORT,
    answering,
    container,
    facts,
    filled,
    given,
    reference,
    service,
    stays,
    wait,
)

NAME = "skypilot"
TASK = "service.yaml"
SIDE = Path(__file__).with_name("sky_side.py")
LONGEST, DRAIN = 600, 25
SECONDS = 1800  # for one question to SkyPilot, which starts its controller at the first
OVER = {"FAILED", "CONTROLLER_FAILED", "FAILED_CLEANUP"}


class Skypilot:
    """The target `skypilot`; `interval` is the seconds between two looks at what SkyPilot is doing."""

    tried = "held against SkyPilot's own schemas where it is installed, not run in a cloud"

    def __init__(self, interval: float = 15) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the task."""
        asked, text = given(job, NAME, NAME), _task(job)
        python = _python(job.config.root, asked.environment)
        held = f"nothing: SkyPilot is not in {asked.environment}"
        if python.is_file():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / TASK
                path.write_text(text, encoding="utf-8")
                try:
                    held = f"the schemas of SkyPilot {_ask(python, 'check', service(job), str(path))}"
                except ServingError as fault:
                    told = str(fault)
                    refuse(NAME, [told if told.startswith(TASK) else f"{TASK}: {told}"])
        return Plan(
            {TASK: text},
            (Check(TASK, held),),
            (
                f"sky serve up --service-name {service(job)} {TASK}; or if there is one, ",
                f"sky serve update --mode blue_green {service(job)} {TASK}",
                "wait until the new replicas have the traffic, and ask the smoke test; if that fails, update back",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Make or change the service; the replicas before answer until enough new ones are ready."""
        asked, name, text = given(job, NAME, NAME), service(job), plan.files[TASK]
        python = _installed(job.config.root, asked.environment)
        filled([reference(each) for each in yaml.safe_load(text)["secrets"]], NAME)
        before, known = _ask(python, "status", name), remembered(job.config.root, NAME)
        about = facts(job, name=name, environment=asked.environment, task=text)
        stays(job, NAME, about, "name")
        if before is None:
            known = None
            remember(job.config.root, NAME, {**about, "version": "none yet"})
        try:
            about["url"] = self._bring(python, name, text, before)
            tls = job.config.serve.access.tls
            answering(about["url"], self._interval, context=pinned(tls) if tls else None)
            job.smoke(about["url"])
        except BaseException:
            if before is None:
                self.destroy(job.config.root)
            elif known and known["task"] != text:
                self._bring(python, name, known["task"], _ask(python, "status", name))
            raise
        remember(job.config.root, NAME, about)
        return {key: value for key, value in about.items() if key != "task"}

    def status(self, root: Path) -> Running | None:
        """Return how the service is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        seen = _ask(_installed(root, known["environment"]), "status", known["name"])
        if seen is None:
            return Running(health="gone", version=known["version"])
        ready = [each for each in seen["replicas"] if each["status"] == "READY"]
        told = {"service": known["name"], "state": seen["status"]}
        told["replicas"] = f"{len(ready)} ready of {len(seen['replicas'])}"
        health: Any = "ready" if ready else "not ready"
        return Running(health=health, version=known["version"], url=known.get("url"), facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines of each replica."""
        if known := remembered(root, NAME):
            python = _installed(root, known["environment"])
            yield from _ask(python, "logs", known["name"], str(lines)).splitlines(keepends=True)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """End the service, and wait until its machines are gone."""
        known = remembered(root, NAME)
        if known is None:
            return None
        python, name = _installed(root, known["environment"]), known["name"]
        if _ask(python, "status", name) is not None:
            _ask(python, "down", name)
            wait(f"Ending {name}", lambda: True if _ask(python, "status", name) is None else None, self._interval)
        forget(root, NAME)
        return {"service": name}

    def _bring(self, python: Path, name: str, text: str, before: Any) -> str:
        """Make or change the service; return its address once only the new version has the traffic."""
        former = max((each["version"] for each in before["replicas"]), default=0) if before else 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / TASK
            path.write_text(text, encoding="utf-8")
            _ask(python, "update" if before else "up", name, str(path))

        def look() -> dict[str, Any] | None:
            seen = _ask(python, "status", name)
            new = [each for each in seen["replicas"] if each["version"] > former] if seen else []
            bad = [each for each in new if each["status"].startswith("FAILED")]
            if seen is None or seen["status"] in OVER or bad:
                why = f"replica {bad[0]['id']} is {bad[0]['status']}" if bad else "its service failed"
                raise ServingError(f"SkyPilot cannot run {name}: {why}: see `forgeline deploy logs --target skypilot`.")
            moved = bool(seen["versions"]) and min(seen["versions"]) > former
            return seen if moved and any(each["status"] == "READY" for each in new) else None

        endpoint = str(wait(f"The service {name}", look, self._interval)["endpoint"])
        return endpoint if "://" in endpoint else f"https://{endpoint}"


def _task(job: Job) -> str:
    asked, tls = given(job, NAME, NAME), job.config.serve.access.tls
    faults = []
    if tls is None:
        faults.append(
            "serve.access.tls: SkyServe's load balancer is on the open network: name a certificate and its key"
        )
    runs = container(job, NAME, platform=False, longest=LONGEST, drain=DRAIN, faults=faults, own_tls=True)
    policy = render.skypilot(job.config.serve.scaling)
    if asked.spot:
        policy |= {"dynamic_ondemand_fallback": True, "base_ondemand_fallback_replicas": asked.fallback}
    gpus = ["--gpus", "all"] if asked.accelerators else []
    variables = [word for name in runs.environment for word in ("--env", name)]
    docker = ["docker", "run", "--rm", "--network", "host", "--read-only", "--tmpfs", "/tmp", *gpus, *variables]  # noqa: S108
    command = [*docker, "--entrypoint", COMMAND[0], runs.image, *COMMAND[1:]]
    resources = {"infra": asked.infra, "accelerators": asked.accelerators, "cpus": asked.cpus, "memory": asked.memory}
    task = {
        "name": service(job),
        "service": {
            "readiness_probe": {"path": "/readyz", "initial_delay_seconds": asked.startup, "timeout_seconds": 15},
            "replica_policy": policy,
            "load_balancing_policy": "least_load",
            "tls": {"keyfile": tls.key, "certfile": tls.certificate} if tls else None,
        },
        "resources": {
            **{key: value for key, value in resources.items() if value is not None},
            "use_spot": asked.spot,
            "ports": PORT,
        },
        "envs": {name: value for name, value in runs.environment.items() if name not in runs.secrets},
        "secrets": dict.fromkeys(runs.secrets),
        "run": shlex.join(command),
    }
    return yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=120)


def _python(root: Path, environment: str) -> Path:
    return root / environment / "bin" / "python"


def _installed(root: Path, environment: str) -> Path:
    python = _python(root, environment)
    if not python.is_file():
        raise ServingError(
            f"The skypilot target needs SkyPilot in {environment}: python -m venv {environment} && "
            f"{environment}/bin/pip install 'skypilot[aws]==0.14.1', with the clouds that you use."
        )
    return python


def _ask(python: Path, verb: str, *arguments: str) -> Any:
    """Return what SkyPilot gives; raises ServingError with the last line that it said, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gave.json"
        command = [str(python), str(SIDE), verb, str(out), *arguments]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ServingError(f"SkyPilot did not {verb} in {SECONDS} s: look at `sky api logs`.") from None
        if ended.returncode or not out.is_file():
            said = (ended.stderr or ended.stdout).strip().splitlines()
            raise ServingError(
                said[-1] if said and verb == "check" else f"SkyPilot refused to {verb}: {said[-1] if said else '?'}"
            )
        return json.loads(out.read_text(encoding="utf-8"))
