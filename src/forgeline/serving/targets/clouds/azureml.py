"""A managed online endpoint of Azure ML: a new deployment is asked by its name before it gets any traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.gateway.access.platform import INVOKE
from forgeline.serving.targets import Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import (
    PORT,
    azure,
    container,
    facts,
    filled,
    given,
    release,
    rendered,
    service,
    stays,
    wait,
)
from forgeline.serving.targets.clouds.relay import relay

NAME = "azureml"
MODELS: azure.Models = {
    "environment.json": ("azure.mgmt.machinelearningservices", "EnvironmentVersion"),
    "endpoint.json": ("azure.mgmt.machinelearningservices", "OnlineEndpoint"),
    "deployment.json": ("azure.mgmt.machinelearningservices", "OnlineDeployment"),
    "autoscale.json": ("azure.mgmt.monitor", "AutoscaleSettingResource"),
}
LONGEST, DRAIN = 175, 25  # Azure ML gives a request 180 s
PROBE = {"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT10S", "successThreshold": 1}
START = 120  # failures of the readiness probe, 20 minutes


class Azureml:
    """The target `azureml`; `interval` is the seconds between two looks at what Azure is doing."""

    tried = "held against the models of Azure's SDK and a stand-in for its API, not run in Azure"

    def __init__(self, interval: float = 15) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the requests' bodies."""
        bodies = _bodies(job)
        files = {path: rendered(body) for path, body in bodies.items()}
        checks, faults = azure.check(files, MODELS)
        if faults:
            refuse(NAME, faults)
        name = _deployment(bodies)
        return Plan(
            files,
            tuple(checks),
            (
                f"the environment of the image, and the endpoint {service(job, 32)} if there is none",
                f"the deployment {name} without traffic, until Azure ML finds it healthy",
                "the smoke test, which names the deployment; the one before answers all others",
                "all traffic to it; the deployment before goes",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Make a deployment beside the one before, try it, and move the traffic."""
        asked = given(job, NAME, NAME)
        bodies = {path: json.loads(text) for path, text in plan.files.items()}
        place, name = (asked.resource_group, asked.workspace, service(job, 32)), _deployment(bodies)
        about = facts(job, subscription=asked.subscription, place=[*place], deployment=name)
        stays(job, NAME, about, "subscription", "place")
        with azure.spoken():
            ml, monitor = azure.clients(asked.subscription)
            live = _live(azure.found(lambda: ml.online_endpoints.get(*place)))
            if live is None:
                remember(job.config.root, NAME, {**about, "version": "none yet"})
            try:
                if live is None:
                    self._route(ml, place, bodies["endpoint.json"], {})
                if live != name:
                    self._beside(ml, place, bodies)
                with relay(job.manifest.lineage.model, _invoke(ml, place, name)) as url:
                    job.smoke(url)
                self._route(ml, place, bodies["endpoint.json"], {name: 100})
            except BaseException:
                if live is None:
                    self.destroy(job.config.root)
                elif live != name:
                    self._keep(ml, monitor, place, live)
                raise
            remember(job.config.root, NAME, about)
            monitor.autoscale_settings.create_or_update(
                asked.resource_group, _scaling(place, name), bodies["autoscale.json"]
            )
            self._keep(ml, monitor, place, name)
        return about

    def status(self, root: Path) -> Running | None:
        """Return how the endpoint is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with azure.spoken():
            ml, _ = azure.clients(known["subscription"])
            seen = azure.found(lambda: ml.online_endpoints.get(*known["place"]))
        if seen is None:
            return Running(health="gone", version=known["version"])
        told = {"endpoint": seen.properties.scoring_uri or "", "state": str(seen.properties.provisioning_state)}
        told["traffic"] = json.dumps(seen.properties.traffic or {})
        health: Any = "ready" if _live(seen) == known["deployment"] else "not ready"
        return Running(health=health, version=known["version"], facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the containers wrote."""
        if known := remembered(root, NAME):
            with azure.spoken():
                ml, _ = azure.clients(known["subscription"])
                asked = {"containerType": "InferenceServer", "tail": lines}
                body = ml.online_deployments.get_logs(*known["place"], known["deployment"], _json(asked))
                yield from (body.content or "").splitlines(keepends=True)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete the deployments, with their scaling and environments, and the endpoint."""
        known = remembered(root, NAME)
        if known is None:
            return None
        place = known["place"]
        with azure.spoken():
            ml, monitor = azure.clients(known["subscription"])
            if azure.found(lambda: ml.online_endpoints.get(*place)) is not None:
                self._keep(ml, monitor, place, None)
                self._done("Deleting the endpoint", ml.online_endpoints.begin_delete(*place, **self._polling))
        forget(root, NAME)
        return {"endpoint": place[2], "workspace": place[1]}

    def _beside(self, ml: Any, place: Any, bodies: dict[str, Any]) -> None:
        body, name = filled(bodies["deployment.json"], NAME), _deployment(bodies)
        identity = body["properties"]["environmentId"].rsplit("/", 3)
        environment = (*place[:2], identity[1], identity[3])
        ml.environment_versions.create_or_update(*environment, _json(bodies["environment.json"]))
        try:
            begun = ml.online_deployments.begin_create_or_update(*place, name, _json(body), **self._polling)
            self._done("The deployment", begun)
        except BaseException:
            if azure.found(lambda: ml.online_deployments.get(*place, name)) is None:  # else it goes with the deployment
                azure.found(lambda: ml.environment_versions.delete(*environment))
            raise

    def _route(self, ml: Any, place: Any, endpoint: dict[str, Any], traffic: dict[str, int]) -> None:
        body = {**endpoint, "properties": {**endpoint["properties"], "traffic": traffic}}
        begun = ml.online_endpoints.begin_create_or_update(*place, _json(body), **self._polling)
        self._done("The endpoint", begun)

    def _keep(self, ml: Any, monitor: Any, place: Any, name: str | None) -> None:
        """Delete every other deployment; one that has traffic loses it first, which only a destroyed endpoint's has."""
        for each in list(ml.online_deployments.list(*place)):
            if each.name != name:
                azure.found(lambda each=each: monitor.autoscale_settings.delete(place[0], _scaling(place, each.name)))
                if name is None:
                    self._quiet(ml, place)
                self._done("Deleting", ml.online_deployments.begin_delete(*place, each.name, **self._polling))
                identity = each.properties.environment_id.rsplit("/", 3)
                azure.found(
                    lambda identity=identity: ml.environment_versions.delete(*place[:2], identity[1], identity[3])
                )

    def _quiet(self, ml: Any, place: Any) -> None:
        seen = ml.online_endpoints.get(*place)
        if seen.properties.traffic:
            seen.properties.traffic = {}
            self._done("The endpoint", ml.online_endpoints.begin_create_or_update(*place, seen, **self._polling))

    def _done(self, what: str, poller: Any) -> None:
        wait(what, lambda: True if poller.done() else None, min(self._interval, 1))
        poller.result()

    @property
    def _polling(self) -> dict[str, float]:
        return {"polling_interval": self._interval}


def _bodies(job: Job) -> dict[str, Any]:
    asked, scaling = given(job, NAME, NAME), job.config.serve.scaling
    faults = []
    if scaling.min_replicas < 1:
        faults.append("serve.scaling.min_replicas: Azure ML keeps one instance at least")
    if scaling.schedule or scaling.first_token is not None:
        faults.append("serve.scaling: Azure ML scales on utilisation here; leave schedule and first_token out")
    runs = container(job, NAME, platform=True, longest=LONGEST, drain=DRAIN, faults=faults)
    workspace = (
        f"/subscriptions/{asked.subscription}/resourceGroups/{asked.resource_group}"
        f"/providers/Microsoft.MachineLearningServices/workspaces/{asked.workspace}"
    )
    routes = {"scoringRoute": INVOKE, "livenessRoute": "/healthz", "readinessRoute": "/readyz"}
    environment = {
        "properties": {
            "image": runs.image,
            "osType": "Linux",
            "inferenceConfig": {route: {"path": path, "port": PORT} for route, path in routes.items()},
        }
    }
    properties = {
        "endpointComputeType": "Managed",
        "instanceType": asked.instance_type,
        "environmentVariables": runs.environment,
        "requestSettings": {
            "requestTimeout": "PT3M",
            "maxConcurrentRequestsPerInstance": scaling.ongoing_requests,
        },
        "livenessProbe": {**PROBE, "failureThreshold": START},
        "readinessProbe": {**PROBE, "failureThreshold": START},
        "scaleSettings": {"scaleType": "Default"},
    }
    version = release(job, [environment, properties], joint="")
    properties["environmentId"] = f"{workspace}/environments/{service(job, 32)}/versions/{version}"
    deployment = {
        "location": asked.location,
        "sku": {"name": "Default", "capacity": scaling.min_replicas},
        "properties": properties,
    }
    resource = f"{workspace}/onlineEndpoints/{service(job, 32)}/deployments/v{version}"
    return {
        "environment.json": environment,
        "endpoint.json": {
            "location": asked.location,
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": "Key", "publicNetworkAccess": "Enabled"},
        },
        "deployment.json": deployment,
        "autoscale.json": _autoscale(job, resource),
    }


def _autoscale(job: Job, resource: str) -> dict[str, Any]:
    """Return Azure Monitor's rules: one instance more above the bound, one fewer below half of it."""
    asked, scaling = given(job, NAME, NAME), job.config.serve.scaling
    gpu = asked.instance_type.lower().startswith("standard_n")

    def rule(operator: str, threshold: int, direction: str) -> dict[str, Any]:
        return {
            "metricTrigger": {
                "metricName": "GpuUtilizationPercentage" if gpu else "CpuUtilizationPercentage",
                "metricResourceUri": resource,
                "timeGrain": "PT1M",
                "statistic": "Average",
                "timeWindow": "PT5M",
                "timeAggregation": "Average",
                "operator": operator,
                "threshold": threshold,
            },
            "scaleAction": {"direction": direction, "type": "ChangeCount", "value": "1", "cooldown": "PT5M"},
        }

    least, most = str(scaling.min_replicas), str(scaling.max_replicas)
    profile = {
        "name": "load",
        "capacity": {"minimum": least, "maximum": most, "default": least},
        "rules": [
            rule("GreaterThan", asked.utilisation, "Increase"),
            rule("LessThan", asked.utilisation // 2, "Decrease"),
        ],
    }
    told = {"enabled": True, "targetResourceUri": resource, "profiles": [profile]}
    return {"location": asked.location, "properties": told}


def _deployment(bodies: dict[str, Any]) -> str:
    return str(bodies["autoscale.json"]["properties"]["targetResourceUri"]).rpartition("/")[2]


def _scaling(place: Any, name: str) -> str:
    return f"{place[2]}-{name}"


def _live(seen: Any) -> str | None:
    """Return the deployment that has the traffic."""
    traffic = (seen.properties.traffic or {}) if seen else {}
    return next((name for name, share in traffic.items() if share == 100), None)


def _json(body: Any) -> Any:
    import io

    return io.BytesIO(json.dumps(body).encode())


def _invoke(ml: Any, place: Any, name: str) -> Any:
    """Return what sends a chat request to one deployment of the endpoint."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    address = ml.online_endpoints.get(*place).properties.scoring_uri
    key = ml.online_endpoints.list_keys(*place).primary_key
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "azureml-model-deployment": name}

    def invoke(body: bytes, stream: bool) -> Iterator[bytes]:
        try:
            with urlopen(Request(address, body, headers), timeout=LONGEST) as reply:  # noqa: S310  Azure told us
                yield from reply if stream else iter([reply.read()])
        except HTTPError as fault:
            told = fault.read().decode(errors="replace")[:500]
            raise ServingError(f"The endpoint {place[2]} did not answer ({fault.code}): {told}") from fault
        except URLError as fault:
            raise ServingError(f"The endpoint {place[2]} does not answer: {fault.reason}") from fault

    return invoke
