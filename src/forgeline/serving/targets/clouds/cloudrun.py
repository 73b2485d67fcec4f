"""A service of Cloud Run: a new revision is tried at an address of its own before it gets any traffic.

Functions of Cloud Run (2nd generation) are built from source and run as such a service; an image needs none of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import (
    COMMAND,
    PORT,
    Container,
    answering,
    container,
    facts,
    given,
    google,
    release,
    rendered,
    service,
    stays,
    wait,
)

NAME = "cloudrun"
TRIAL = "trial"  # the tag of what is being tried; its address begins with it
LONGEST, DRAIN = 3595, 8  # Cloud Run gives a request an hour at most, and a container 10 s to end
START = {"periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 24}  # 240 s, the most that there is
ALL = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"


class Cloudrun:
    """The target `cloudrun`; `interval` is the seconds between two looks at what Google is doing."""

    tried = "held against run.v2's discovery document and a stand-in for its API, not run in Google Cloud"

    def __init__(self, interval: float = 5) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the service's body."""
        body = _body(job)
        files = {"service.json": rendered(body)}
        checks, faults = google.check(files, {"service.json": ("run.v2", "GoogleCloudRunV2Service")})
        if faults:
            refuse(NAME, faults)
        return Plan(
            files,
            tuple(checks),
            (
                f"the revision {body['template']['revision']} of the service {service(job)}, without traffic",
                f"the smoke test at the address of its tag, {TRIAL}; the revision before answers all callers",
                "all traffic to it, and the tag goes",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Make a revision, try it, and move the traffic; until then the one before gets all of it."""
        asked, body = given(job, NAME, NAME), json.loads(plan.files["service.json"])
        parent = f"projects/{asked.project}/locations/{asked.region}"
        name, revision = f"{parent}/services/{service(job)}", body["template"]["revision"]
        about = facts(job, name=name, project=asked.project, revision=revision)
        stays(job, NAME, about, "name")
        with google.spoken(NAME):
            services = google.sdk("run.v2").projects().locations().services()
            before = google.found(services.get(name=name))
            live = _live(before) if before else None
            trial = {"type": ALL, "revision": revision, "tag": TRIAL}
            try:
                if live is None:
                    remember(job.config.root, NAME, {**about, "version": "none yet"})
                    self._remove(services, name)  # what an attempt that was cut short left
                    body["traffic"] = [{**trial, "percent": 100}]
                    services.create(parent=parent, serviceId=service(job), body=body).execute()
                else:
                    body["traffic"] = [{"type": ALL, "revision": live, "percent": 100}, trial]
                    services.patch(name=name, body=body).execute()
                seen = self._settle(services, name, revision)
                address = next(each["uri"] for each in seen["trafficStatuses"] if each.get("tag") == TRIAL)
                job.smoke(answering(address, self._interval))
            except BaseException:
                if before is None or live is None:
                    self.destroy(job.config.root)
                else:
                    former = {
                        "template": before["template"],
                        "traffic": [{"type": ALL, "revision": live, "percent": 100}],
                    }
                    services.patch(name=name, body=former, updateMask="template,traffic").execute()
                raise
            whole = {"traffic": [{"type": ALL, "revision": revision, "percent": 100}]}
            services.patch(name=name, body=whole, updateMask="traffic").execute()
            about["url"] = self._settle(services, name, revision)["uri"]
            remember(job.config.root, NAME, about)
        return about

    def status(self, root: Path) -> Running | None:
        """Return how the service is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with google.spoken(NAME):
            seen = google.found(google.sdk("run.v2").projects().locations().services().get(name=known["name"]))
        if seen is None:
            return Running(health="gone", version=known["version"])
        state = seen.get("terminalCondition", {})
        told = {"service": seen["name"], "revision": _live(seen) or "none", "state": state.get("state", "unknown")}
        if state.get("message"):
            told["reason"] = state["message"]
        # What answers is the revision with the traffic, whatever became of one that was to follow it.
        health: Any = "ready" if _live(seen) == known["revision"] else "not ready"
        return Running(health=health, version=known["version"], url=seen.get("uri"), facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the containers wrote."""
        if known := remembered(root, NAME):
            short = known["name"].rpartition("/")[2]
            selected = f'resource.type="cloud_run_revision" AND resource.labels.service_name="{short}"'
            with google.spoken(NAME):
                yield from google.tail(known["project"], selected, lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete the service with its revisions."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with google.spoken(NAME):
            self._remove(google.sdk("run.v2").projects().locations().services(), known["name"])
        forget(root, NAME)
        return {"service": known["name"]}

    def _settle(self, services: Any, name: str, revision: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            seen: dict[str, Any] = services.get(name=name).execute()
            state = seen.get("terminalCondition", {}).get("state")
            over = not seen.get("reconciling") and state in {"CONDITION_SUCCEEDED", "CONDITION_FAILED"}
            return seen if over else None

        seen = wait(f"The revision {revision}", look, self._interval)
        if seen["terminalCondition"]["state"] == "CONDITION_FAILED":
            raise ServingError(f"Cloud Run cannot run {revision}: {seen['terminalCondition'].get('message')}")
        return seen

    def _remove(self, services: Any, name: str) -> None:
        if google.found(services.delete(name=name)) is not None:
            wait(
                f"Deleting {name}",
                lambda: True if google.found(services.get(name=name)) is None else None,
                self._interval,
            )


def _body(job: Job) -> dict[str, Any]:
    asked, scaling = given(job, NAME, NAME), job.config.serve.scaling
    faults = []
    if scaling.schedule or scaling.first_token is not None:
        faults.append("serve.scaling: Cloud Run scales on requests; leave schedule and first_token out here")
    runs = container(job, NAME, platform=False, longest=LONGEST, drain=DRAIN, faults=faults)
    limits = {"cpu": str(asked.cpu), "memory": f"{asked.memory}Gi"}
    if asked.gpu:
        limits["nvidia.com/gpu"] = "1"
    template: dict[str, Any] = {
        "serviceAccount": asked.service_account,
        "timeout": f"{LONGEST + 5}s",
        "maxInstanceRequestConcurrency": scaling.ongoing_requests,
        "scaling": {"minInstanceCount": scaling.min_replicas, "maxInstanceCount": scaling.max_replicas},
        "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
        "containers": [
            {
                "image": runs.image,
                "command": [*COMMAND],
                "ports": [{"containerPort": PORT}],
                "env": _environment(runs, asked.secrets),
                "resources": {"limits": limits, "startupCpuBoost": True},
                "startupProbe": {"httpGet": {"path": "/readyz", "port": PORT}, **START},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 30},
            }
        ],
    }
    if asked.gpu:
        template |= {"nodeSelector": {"accelerator": asked.gpu}, "gpuZonalRedundancyDisabled": True}
    template["revision"] = service(job) + release(job, template)
    return {
        "ingress": "INGRESS_TRAFFIC_ALL",
        "invokerIamDisabled": True,  # the gateway asks for its own keys
        "template": template,
    }


def _environment(runs: Container, secrets: dict[str, str]) -> list[dict[str, Any]]:
    """Return the variables, secrets by their names in Secret Manager: their values never pass through here."""
    if missing := [name for name in runs.secrets if name not in secrets]:
        refuse(NAME, [f"serve.targets.cloudrun.secrets.{name}: name its secret in Secret Manager" for name in missing])
    plain = [{"name": name, "value": value} for name, value in runs.environment.items() if name not in runs.secrets]
    kept = [
        {"name": name, "valueSource": {"secretKeyRef": {"secret": secrets[name], "version": "latest"}}}
        for name in runs.secrets
    ]
    return plain + kept


def _live(seen: dict[str, Any]) -> str | None:
    """Return the revision that has the traffic."""
    for each in seen.get("trafficStatuses", []):
        if each.get("percent", 0) == 100:
            return each.get("revision") or str(seen.get("latestReadyRevision", "")).rpartition("/")[2] or None
    return None
