"""Azure ML by its real SDK, whose transport leads to a stand-in that reads each body into the SDK's own models."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest
from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient
from azure.mgmt.monitor import MonitorManagementClient
from conftest import Smoke

from forgeline.errors import ServingError
from forgeline.serving.targets import remembered
from forgeline.serving.targets.clouds import azure as sdk
from forgeline.serving.targets.clouds import azureml

ASKED = {
    "subscription": "00000000-0000-0000-0000-000000000000",
    "resource_group": "serving",
    "workspace": "shop",
    "location": "westeurope",
    "instance_type": "Standard_NC24ads_A100_v4",
}


class Credential:
    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken("token", 4_000_000_000)


class Azure(HttpTransport):
    """Keeps resources by their paths; `fails` is what a deployment is told."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.fails = ""
        self.traffic: list[dict[str, int]] = []

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, request: HttpRequest, **_: Any) -> Any:  # noqa: PLR0911
        path, kind = (
            urlsplit(request.url).path.lower(),
            urlsplit(request.url).path.rpartition("/")[0].rpartition("/")[2],
        )
        if request.method == "PUT":
            raw = request.body if hasattr(request, "body") else request.content
            body = json.loads(raw.read() if hasattr(raw, "read") else raw)
            return self._answer(request, *self._put(path, kind, body))
        if request.method == "POST" and path.endswith("/listkeys"):
            return self._answer(request, 200, {"primaryKey": "endpoint-key"})
        if request.method == "POST" and path.endswith("/getlogs"):
            return self._answer(request, 200, {"content": "line 1\nline 2\n"})
        if path.endswith("/deployments"):
            below = [self.held[each] for each in sorted(self.held) if each.startswith(f"{path}/")]
            return self._answer(request, 200, {"value": below})
        if path not in self.held:
            return self._answer(request, 404, {"error": {"code": "NotFound", "message": "not found"}})
        if request.method == "DELETE":
            alone = path.split("/deployments/")[0]
            traffic = self.held.get(alone, {}).get("properties", {}).get("traffic", {})
            if traffic.get(path.rpartition("/")[2]):
                return self._answer(request, 400, {"error": {"code": "BadRequest", "message": "it has traffic"}})
            del self.held[path]
            return self._answer(request, 200, {})
        return self._answer(request, 200, self.held[path])

    def _put(self, path: str, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = path.rpartition("/")[2]
        if kind == "deployments" and self.fails:
            return 400, {"error": {"code": "BadRequest", "message": self.fails}}
        if kind == "onlineEndpoints":
            self.traffic.append(body["properties"].get("traffic", {}))
            body["properties"] |= {"scoringUri": "http://127.0.0.1:9/score"}
        body.setdefault("properties", {})
        if kind != "autoscalesettings":
            body["properties"]["provisioningState"] = "Succeeded"
        self.held[path] = {**body, "name": name, "id": path}
        return 200, self.held[path]

    def _answer(self, request: HttpRequest, status: int, body: Any) -> Any:
        from azure.core.pipeline.transport import RequestsTransportResponse
        from azure.core.rest._requests_basic import RestRequestsTransportResponse
        from requests import Response

        response = Response()
        response.status_code, response._content = status, json.dumps(body).encode()
        response.headers["content-type"] = "application/json"
        if hasattr(request, "body"):
            return RequestsTransportResponse(request, response)
        response._content_consumed = True
        return RestRequestsTransportResponse(request=request, internal_response=response)

    def deployments(self) -> list[str]:
        return sorted(path.rpartition("/")[2] for path in self.held if "/deployments/" in path)


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Azure:
    made = Azure()
    options: Any = {"transport": made, "retry_total": 0}

    def clients(subscription: str) -> tuple[Any, Any]:
        credential: Any = Credential()
        return (
            MachineLearningServicesMgmtClient(credential, subscription, **options),
            MonitorManagementClient(credential, subscription, **options),
        )

    monkeypatch.setattr(sdk, "clients", clients)
    return made


def deploy(job: Any) -> dict[str, Any]:
    target = azureml.Azureml(interval=0.01)
    return target.deploy(job, target.plan(job))


def test_a_version_comes_changes_and_goes(azure: Azure, make: Any) -> None:
    target = azureml.Azureml(interval=0.01)
    first = make("3", targets={"azureml": ASKED})
    made = deploy(first)
    assert first.smoke.asked
    assert azure.deployments() == [made["deployment"]]
    assert azure.traffic == [{}, {made["deployment"]: 100}]
    then = deploy(make("4", targets={"azureml": ASKED}))
    assert azure.deployments() == [then["deployment"]]
    assert azure.traffic[-1] == {then["deployment"]: 100}
    scaled = [path for path in azure.held if "autoscalesettings" in path]
    assert len(scaled) == 1
    azure.fails = "The SKU Standard_NC24ads_A100_v4 is not available in westeurope."
    with pytest.raises(ServingError, match=r"Azure refused it \(400\): The SKU .* is not available in westeurope"):
        deploy(make("5", targets={"azureml": ASKED}))
    azure.fails = ""
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(make("6", smoke=Smoke(passes=False), targets={"azureml": ASKED}))
    assert azure.deployments() == [then["deployment"]]
    assert azure.traffic[-1] == {then["deployment"]: 100}
    root = first.config.root
    running = target.status(root)
    assert running is not None
    assert (running.health, running.version) == ("ready", "4")
    assert list(target.logs(root, 2)) == ["line 1\n", "line 2\n"]
    assert target.destroy(root) == {"endpoint": made["place"][2], "workspace": "shop"}
    assert not azure.held
    assert target.destroy(root) is None


def test_a_first_version_that_fails_leaves_nothing(azure: Azure, make: Any) -> None:
    job = make("3", smoke=Smoke(passes=False), targets={"azureml": ASKED})
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(job)
    assert not azure.held
    assert remembered(job.config.root, "azureml") is None


def test_no_credentials_is_one_sentence(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.identity import CredentialUnavailableError, DefaultAzureCredential

    def none(*_: Any, **__: Any) -> None:
        raise CredentialUnavailableError("No credential was found.")

    monkeypatch.setattr(DefaultAzureCredential, "get_token", none)
    with pytest.raises(ServingError, match=r"run `az login`"):
        deploy(make("3", targets={"azureml": ASKED}))


def test_a_broken_body_is_refused_with_its_path(make: Any) -> None:
    files = azureml.Azureml().plan(make(targets={"azureml": ASKED})).files
    body = json.loads(files["deployment.json"])
    body["properties"] |= {"instanceTypes": "x", "requestSettings": {"requestTimeout": "3 minutes"}}
    _, faults = sdk.check({**files, "deployment.json": json.dumps(body)}, azureml.MODELS)
    assert any("deployment.json" in fault for fault in faults)
    body["properties"]["requestSettings"] = {"requestTimeout": "PT3M"}
    _, faults = sdk.check({**files, "deployment.json": json.dumps(body)}, azureml.MODELS)
    assert faults == [
        "deployment.json: properties.instanceTypes: the SDK's model has no such field, or only Azure sets it"
    ]
    del body["properties"]["instanceTypes"], body["location"]
    assert sdk.check({**files, "deployment.json": json.dumps(body)}, azureml.MODELS)[1] == [
        "deployment.json: location: is missing"
    ]
    with pytest.raises(ServingError, match=r"serve.scaling.min_replicas: Azure ML keeps one instance at least"):
        azureml.Azureml().plan(make(targets={"azureml": ASKED}, scaling={"min_replicas": 0}))
