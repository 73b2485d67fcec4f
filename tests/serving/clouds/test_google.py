"""Cloud Run and Vertex AI against a stand-in for their APIs, which takes only what the discovery documents know."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import Smoke
from fronts import front

from forgeline.errors import ServingError
from forgeline.serving.targets import remembered
from forgeline.serving.targets.clouds import cloudrun, google, vertex

STORE = "postgresql+psycopg://${env:DB_USER}:${env:DB_PASSWORD}@db.internal/gateway"
RUN: dict[str, Any] = {
    "project": "shop",
    "region": "europe-west4",
    "service_account": "serving@shop.iam.gserviceaccount.com",
    "secrets": {"DB_USER": "db-user", "DB_PASSWORD": "db-password"},
}
VERTEX = {"project": "shop", "region": "europe-west4", "machine_type": "g2-standard-8", "accelerator": "NVIDIA_L4"}


class Answer(dict[str, str]):
    def __init__(self, status: int) -> None:
        super().__init__({"status": str(status), "content-type": "application/json"})
        self.status, self.reason = status, "OK"


class Http:
    """What the client sends requests with; `sent` are they, in order."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], Any], tuple[int, Any]]) -> None:
        self._answer = answer
        self.sent: list[tuple[str, str]] = []

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[Answer, bytes]:
        parts = urlsplit(uri)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.sent.append((method, parts.path))
        status, reply = self._answer(method, parts.path, query, json.loads(body) if body else None)
        return Answer(status), json.dumps(reply).encode()

    def close(self) -> None:
        pass


NOT_FOUND = 404, {"error": {"code": 404, "message": "Resource was not found."}}


class Run:
    """Cloud Run; `refuses` are revisions that do not start."""

    def __init__(self, address: str) -> None:
        self.address, self.services = address, dict[str, dict[str, Any]]()
        self.fails = False

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path.startswith("/v2/entries"):
            return 200, {"entries": [{"timestamp": f"t{n}", "textPayload": f"line {n}\n"} for n in (2, 1)]}
        if method == "POST":
            name = f"{path.removeprefix('/v2/').removesuffix('/services')}/services/{query['serviceId']}"
            self.services[name] = {"name": name, "uri": f"{self.address}/all"}
            return 200, self.changed(name, body)
        name = path.removeprefix("/v2/")
        if name not in self.services:
            return NOT_FOUND
        if method == "DELETE":
            del self.services[name]
            return 200, {"done": True}
        return 200, self.changed(name, body) if method == "PATCH" else self.services[name]

    def changed(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        files = {"body": json.dumps({**self.services[name].get("body", {}), **body})}
        assert not google.check(files, {"body": ("run.v2", "GoogleCloudRunV2Service")})[1]
        seen = self.services[name]
        seen |= {"body": json.loads(files["body"]), "template": body.get("template", seen.get("template"))}
        statuses = [
            {**each, "uri": f"{self.address}/{each['tag']}"} if "tag" in each else each for each in body["traffic"]
        ]
        failed = self.fails and any("tag" in each for each in body["traffic"])
        state = {"state": "CONDITION_FAILED", "message": "The image was not found."} if failed else {}
        seen |= {"trafficStatuses": statuses, "terminalCondition": {"state": "CONDITION_SUCCEEDED", **state}}
        return {"done": True}

    @property
    def live(self) -> list[dict[str, Any]]:
        return next(iter(self.services.values()))["trafficStatuses"]


class Ai:
    """Vertex AI; with `fails`, a deployment does not become healthy."""

    def __init__(self) -> None:
        self.models, self.endpoints = dict[str, Any](), dict[str, dict[str, Any]]()
        self.fails = ""

    def __call__(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        name, _, verb = path.removeprefix("/v1/").partition(":")
        kind = name.rpartition("/")[2]
        held = self.models if "/models" in name else self.endpoints
        if verb == "upload":
            self.valid(body, "UploadModelRequest")
            held[f"{name}/{body['modelId']}"] = body
        elif method == "POST" and kind == "endpoints":
            self.valid(body, "Endpoint")
            made = f"{name}/{query['endpointId']}"
            held[made] = {"name": made, "deployedModels": [], "trafficSplit": {}, "dedicatedEndpointDns": "own.example"}
        elif name not in held:
            return NOT_FOUND
        elif verb:
            return self.acted(held[name], verb, body)
        elif method == "PATCH":
            held[name] |= body
        elif method == "DELETE":
            assert not held[name].get("deployedModels"), "an endpoint with models cannot be deleted"
            del held[name]
        else:
            return 200, held[name]
        return 200, {"name": "operation", "done": True}

    def acted(self, endpoint: dict[str, Any], verb: str, body: Any) -> tuple[int, Any]:
        if verb in {"rawPredict", "streamRawPredict"}:
            return 200, {"model": body["model"], "streamed": verb.startswith("stream")}
        if verb == "deployModel":
            self.valid(body, "DeployModelRequest")
            if self.fails:
                return 200, {"name": "operation", "done": True, "error": {"message": self.fails}}
            assert body["deployedModel"]["model"] in self.models
            endpoint["deployedModels"].append(body["deployedModel"])
            number = body["deployedModel"]["id"]
            split = {number if key == "0" else key: share for key, share in body["trafficSplit"].items()}
        else:
            self.valid(body, "UndeployModelRequest")
            endpoint["deployedModels"] = [
                each for each in endpoint["deployedModels"] if each["id"] != body["deployedModelId"]
            ]
            split = body.get("trafficSplit", {})
        endpoint["trafficSplit"] = split
        return 200, {"name": "operation", "done": True}

    def valid(self, body: Any, kind: str) -> None:
        schemas = {"body": (vertex.API, f"GoogleCloudAiplatformV1{kind}")}
        assert not google.check({"body": json.dumps(body)}, schemas)[1]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with front() as url:
        yield url


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, address: str) -> Run:
    made = Run(address)
    monkeypatch.setattr(google, "transport", lambda: Http(made))
    return made


@pytest.fixture
def ai(monkeypatch: pytest.MonkeyPatch) -> Ai:
    made = Ai()
    monkeypatch.setattr(google, "transport", lambda: Http(made))
    return made


def deploy(target: Any, job: Any) -> dict[str, Any]:
    return target.deploy(job, target.plan(job))


def test_cloud_run_tries_a_revision_before_it_gets_traffic(run: Run, make: Any, address: str) -> None:
    target = cloudrun.Cloudrun(interval=0.01)
    first = make("3", targets={"cloudrun": RUN}, store=STORE)
    made = deploy(target, first)
    assert first.smoke.asked == [f"{address}/trial"]
    assert run.live == [{"type": cloudrun.ALL, "revision": made["revision"], "percent": 100}]
    second = make("4", targets={"cloudrun": RUN}, store=STORE)
    then = deploy(target, second)
    assert [each["revision"] for each in run.live] == [then["revision"]]
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(target, make("5", smoke=Smoke(passes=False), targets={"cloudrun": RUN}, store=STORE))
    run.fails = True
    with pytest.raises(ServingError, match=r"Cloud Run cannot run .*: The image was not found"):
        deploy(target, make("6", targets={"cloudrun": RUN}, store=STORE))
    root = first.config.root
    running = target.status(root)
    assert running is not None
    assert (running.health, running.version, running.facts["revision"]) == ("ready", "4", then["revision"])
    assert list(target.logs(root, 2)) == ["t1 line 1\n", "t2 line 2\n"]
    assert target.destroy(root) == {"service": then["name"]}
    assert not run.services
    assert target.destroy(root) is None


def test_cloud_run_gets_secrets_by_their_names_there(make: Any) -> None:
    (text,) = cloudrun.Cloudrun().plan(make(targets={"cloudrun": RUN}, store=STORE)).files.values()
    (one,) = json.loads(text)["template"]["containers"]
    by_name = {each["name"]: each for each in one["env"]}
    assert by_name["DB_PASSWORD"]["valueSource"]["secretKeyRef"]["secret"] == RUN["secrets"]["DB_PASSWORD"]
    with pytest.raises(ServingError, match=r"serve.targets.cloudrun.secrets.DB_PASSWORD: name its secret"):
        cloudrun.Cloudrun().plan(make(targets={"cloudrun": {**RUN, "secrets": {"DB_USER": "u"}}}, store=STORE))


def test_a_first_revision_that_fails_leaves_nothing(run: Run, make: Any) -> None:
    run.fails = True
    job = make(targets={"cloudrun": RUN}, store=STORE)
    with pytest.raises(ServingError, match=r"The image was not found"):
        deploy(cloudrun.Cloudrun(interval=0.01), job)
    assert not run.services
    assert remembered(job.config.root, "cloudrun") is None


def test_vertex_deploys_beside_and_moves_the_traffic(ai: Ai, make: Any) -> None:
    target = vertex.Vertex(interval=0.01)
    said: list[Any] = []

    def asks(url: str) -> None:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "reply-writer"}))
        said.append(json.load(connection.getresponse()))

    made = deploy(target, make("3", smoke=asks, targets={"vertex": VERTEX}))
    assert said == [{"model": "reply-writer", "streamed": False}]
    (endpoint,) = ai.endpoints.values()
    assert endpoint["trafficSplit"] == {made["deployed"]: 100}
    then = deploy(target, make("4", targets={"vertex": VERTEX}))
    assert endpoint["trafficSplit"] == {then["deployed"]: 100}
    assert [each["id"] for each in endpoint["deployedModels"]] == [then["deployed"]]
    assert len(ai.models) == 1
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(target, make("5", smoke=Smoke(passes=False), targets={"vertex": VERTEX}))
    ai.fails = "Machine type g2-standard-8 is not supported in europe-west4."
    with pytest.raises(ServingError, match=r"is not supported in europe-west4"):
        deploy(target, job := make("6", targets={"vertex": VERTEX}))
    assert endpoint["trafficSplit"] == {then["deployed"]: 100}
    assert [each["id"] for each in endpoint["deployedModels"]] == [then["deployed"]]
    assert len(ai.models) == 1
    running = target.status(job.config.root)
    assert running is not None
    assert (running.health, running.version) == ("ready", "4")
    assert target.destroy(job.config.root) == {"endpoint": then["endpoint"]}
    assert not ai.models
    assert not ai.endpoints
    assert target.destroy(job.config.root) is None


def test_no_credentials_is_one_sentence(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    def none(**_: Any) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.")

    monkeypatch.setattr(google.auth, "default", none)
    job = make(targets={"vertex": VERTEX})
    with pytest.raises(ServingError, match=r"credentials were not found: run `gcloud auth application-default login`"):
        deploy(vertex.Vertex(), job)


@pytest.mark.parametrize(
    ("kind", "asked", "told"),
    [
        (
            vertex.Vertex,
            {"vertex": {**VERTEX, "accelerator": "NVIDIA_L5"}},
            r"deploy.json: .*acceleratorType: 'NVIDIA_L5'",
        ),
        (vertex.Vertex, {}, "serve.targets.vertex: is not given; it needs project, region, machine_type"),
        (cloudrun.Cloudrun, {"cloudrun": RUN, "pushed": None}, "serve.targets.pushed: give the pushed image"),
    ],
)
def test_a_broken_plan_is_refused_with_its_path(make: Any, kind: Any, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ServingError, match=told):
        kind().plan(make(targets=asked, store=STORE))


def test_a_body_with_a_key_that_google_does_not_know_is_refused() -> None:
    body = json.dumps({"template": {"containers": [{"image": "i", "port": 8080}], "timeout": 5}})
    _, faults = google.check({"service.json": body}, {"service.json": ("run.v2", "GoogleCloudRunV2Service")})
    assert re.search(r"service.json: template.containers\[0\]: .*'port' was unexpected", "\n".join(faults))
    assert "service.json: template.timeout: 5 is not of type 'string'" in faults
