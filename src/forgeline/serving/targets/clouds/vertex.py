"""An endpoint of Vertex AI: a new version is deployed beside the old one, and gets its traffic when it is healthy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.gateway.access.platform import INVOKE, PING
from forgeline.serving.targets import Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import (
    COMMAND,
    PORT,
    container,
    facts,
    filled,
    given,
    google,
    release,
    rendered,
    service,
    stays,
)
from forgeline.serving.targets.clouds.relay import relay

NAME = "vertex"
API = "aiplatform.v1"
LONGEST, DRAIN = 595, 25
SCHEMAS: google.Schemas = {
    "model.json": (API, "GoogleCloudAiplatformV1UploadModelRequest"),
    "endpoint.json": (API, "GoogleCloudAiplatformV1Endpoint"),
    "deploy.json": (API, "GoogleCloudAiplatformV1DeployModelRequest"),
}


class Vertex:
    """The target `vertex`; `interval` is the seconds between two looks at what Google is doing."""

    tried = "held against aiplatform.v1's discovery document and a stand-in for its API, not run in Google Cloud"

    def __init__(self, interval: float = 15) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the requests' bodies."""
        bodies = _bodies(job)
        files = {path: rendered(body) for path, body in bodies.items()}
        checks, faults = google.check(files, SCHEMAS)
        if faults:
            refuse(NAME, faults)
        return Plan(
            files,
            tuple(checks),
            (
                f"the model {bodies['model.json']['modelId']}, and the endpoint {service(job)} if there is none",
                "the model deployed there without traffic, until Vertex AI finds it healthy",
                "all traffic to it, and the smoke test through rawPredict; if that fails, all traffic back",
                "the version before, and its model, go",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Deploy the model beside the one before, which goes once the new one has passed."""
        asked = given(job, NAME, NAME)
        bodies = {path: json.loads(text) for path, text in plan.files.items()}
        parent = f"projects/{asked.project}/locations/{asked.region}"
        endpoint = f"{parent}/endpoints/{service(job)}"
        number = bodies["deploy.json"]["deployedModel"]["id"]
        about = facts(job, endpoint=endpoint, project=asked.project, region=asked.region, deployed=number)
        stays(job, NAME, about, "endpoint")
        with google.spoken(NAME):
            here = google.sdk(API, asked.region).projects().locations()
            seen = google.found(here.endpoints().get(name=endpoint))
            live = _live(seen)
            if live is None:
                remember(job.config.root, NAME, {**about, "version": "none yet"})
            try:
                if seen is None:
                    created = here.endpoints().create(
                        parent=parent, endpointId=service(job), body=bodies["endpoint.json"]
                    )
                    self._done("The endpoint", here, created.execute())
                if live != number:
                    self._beside(here, parent, endpoint, bodies, live)
                self._route(here, endpoint, {number: 100})
                with relay(job.manifest.lineage.model, _invoke(here, endpoint)) as url:
                    job.smoke(url)
            except BaseException:
                if live is None:
                    self.destroy(job.config.root)
                elif live != number:
                    self._route(here, endpoint, {live: 100})
                    self._keep(here, endpoint, live)
                raise
            remember(job.config.root, NAME, about)
            self._keep(here, endpoint, number)
        return about

    def status(self, root: Path) -> Running | None:
        """Return how the endpoint is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with google.spoken(NAME):
            seen = google.found(
                google.sdk(API, known["region"]).projects().locations().endpoints().get(name=known["endpoint"])
            )
        if seen is None:
            return Running(health="gone", version=known["version"])
        told = {"endpoint": seen["name"], "traffic": json.dumps(seen.get("trafficSplit", {}))}
        for each in seen.get("deployedModels", []):
            if each["id"] == known["deployed"] and (state := each.get("status")):
                told["replicas"] = str(state.get("availableReplicaCount", "unknown"))
        health: Any = "ready" if _live(seen) == known["deployed"] else "not ready"
        return Running(health=health, version=known["version"], facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the containers wrote."""
        if known := remembered(root, NAME):
            short = known["endpoint"].rpartition("/")[2]
            selected = f'resource.type="aiplatform.googleapis.com/Endpoint" AND resource.labels.endpoint_id="{short}"'
            with google.spoken(NAME):
                yield from google.tail(known["project"], selected, lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Undeploy and delete the models, then the endpoint."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with google.spoken(NAME):
            here = google.sdk(API, known["region"]).projects().locations()
            if google.found(here.endpoints().get(name=known["endpoint"])) is not None:
                self._keep(here, known["endpoint"], None)
                self._done("Deleting the endpoint", here, here.endpoints().delete(name=known["endpoint"]).execute())
        forget(root, NAME)
        return {"endpoint": known["endpoint"]}

    def _beside(self, here: Any, parent: str, endpoint: str, bodies: dict[str, Any], live: str | None) -> None:
        """Upload the model, and deploy it without traffic if there is one before it."""
        body = bodies["deploy.json"]
        self._keep(here, endpoint, live)  # what an attempt that was cut short left
        self._drop_model(here, body["deployedModel"]["model"])
        uploaded = here.models().upload(parent=parent, body=filled(bodies["model.json"], NAME))
        self._done("The model", here, uploaded.execute())
        body["trafficSplit"] = {"0": 0, live: 100} if live else {"0": 100}  # 0 is the one that is being deployed
        try:
            deployed = here.endpoints().deployModel(endpoint=endpoint, body=body).execute()
            self._done("The deployment", here, deployed)
        except BaseException:
            self._drop_model(here, body["deployedModel"]["model"])
            raise

    def _route(self, here: Any, endpoint: str, split: dict[str, int]) -> None:
        here.endpoints().patch(name=endpoint, updateMask="trafficSplit", body={"trafficSplit": split}).execute()

    def _keep(self, here: Any, endpoint: str, number: str | None) -> None:
        """Undeploy whatever else the endpoint has, and delete its models."""
        seen = here.endpoints().get(name=endpoint).execute()
        for each in seen.get("deployedModels", []):
            if each["id"] != number:
                body: dict[str, Any] = {"deployedModelId": each["id"]}
                if number:
                    body["trafficSplit"] = {number: 100}
                undeployed = here.endpoints().undeployModel(endpoint=endpoint, body=body)
                self._done("Undeploying", here, undeployed.execute())
                self._drop_model(here, each["model"])

    def _drop_model(self, here: Any, model: str) -> None:
        begun = google.found(here.models().delete(name=model))
        if begun is not None:
            self._done("Deleting the model", here, begun)

    def _done(self, what: str, here: Any, begun: dict[str, Any]) -> None:
        google.done(what, here.operations(), begun, self._interval)


def _bodies(job: Job) -> dict[str, Any]:
    from forgeline.lineage import value_digest

    asked, scaling = given(job, NAME, NAME), job.config.serve.scaling
    faults = []
    if scaling.min_replicas < 1:
        faults.append("serve.scaling.min_replicas: Vertex AI keeps one replica at least")
    if scaling.schedule or scaling.first_token is not None:
        faults.append("serve.scaling: Vertex AI scales on utilisation; leave schedule and first_token out here")
    runs = container(job, NAME, platform=True, longest=LONGEST, drain=DRAIN, faults=faults)
    spec = {
        "imageUri": runs.image,
        "command": [*COMMAND],
        "ports": [{"containerPort": PORT}],
        "predictRoute": INVOKE,
        "healthRoute": PING,
        "env": [{"name": name, "value": value} for name, value in runs.environment.items()],
        "deploymentTimeout": "3600s",
    }
    machine: dict[str, Any] = {"machineType": asked.machine_type}
    metric = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
    if asked.accelerator:
        machine |= {"acceleratorType": asked.accelerator, "acceleratorCount": asked.accelerators}
        metric = "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle"
    resources = {
        "machineSpec": machine,
        "minReplicaCount": scaling.min_replicas,
        "maxReplicaCount": scaling.max_replicas,
        "autoscalingMetricSpecs": [{"metricName": metric, "target": asked.utilisation}],
        "spot": asked.spot,
    }
    model = service(job) + release(job, [spec, resources])
    deployed: dict[str, Any] = {
        "id": str(int(value_digest(model)[:12], 16) % 10**9 + 1),  # digits are what it takes
        "model": f"projects/{asked.project}/locations/{asked.region}/models/{model}",
        "displayName": model,
        "dedicatedResources": resources,
    }
    if asked.service_account:
        deployed["serviceAccount"] = asked.service_account
    return {
        "model.json": {"modelId": model, "model": {"displayName": model, "containerSpec": spec}},
        "endpoint.json": {
            "displayName": service(job),
            "dedicatedEndpointEnabled": True,  # longer requests, and streams
            "clientConnectionConfig": {"inferenceTimeout": f"{LONGEST + 5}s"},
        },
        "deploy.json": {"deployedModel": deployed},
    }


def _live(seen: dict[str, Any] | None) -> str | None:
    """Return the id of the deployed model that has the traffic."""
    return next((number for number, share in (seen or {}).get("trafficSplit", {}).items() if share == 100), None)


def _invoke(here: Any, endpoint: str) -> Any:
    """Return what sends a chat request to the endpoint's own address."""
    host = here.endpoints().get(name=endpoint).execute()["dedicatedEndpointDns"]
    http = google.transport()

    def invoke(body: bytes, stream: bool) -> Iterator[bytes]:
        url = f"https://{host}/v1/{endpoint}:{'streamRawPredict' if stream else 'rawPredict'}"
        answer, content = http.request(url, method="POST", body=body, headers={"content-type": "application/json"})
        if answer.status != 200:
            raise ServingError(f"{endpoint} did not answer ({answer.status}): {content.decode(errors='replace')[:500]}")
        yield content

    return invoke
