"""What is rendered for containers and clusters, held against published schemas, whole and broken."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scene import LINEAGE, PROJECT

from forgeline.config import load
from forgeline.errors import ServingError
from forgeline.serving import targets
from forgeline.serving.bundle import Manifest
from forgeline.serving.targets import Job, Plan, schemas

GPU = (
    "serve.engine.name=vllm",
    "serve.targets.resources.gpus=1",
    "serve.targets.kubernetes.pod={nodeSelector: {pool: gpu}}",
)
TLS = ("serve.access.tls={certificate: certs/chain.pem, key: certs/key.pem}", "serve.access.behind_proxy=false")
APART = ("serve.engine.process=true",)
ZERO = ("serve.scaling.min_replicas=0",)
KEDA = ('serve.scaling.schedule=[{start: "0 8 * * 1-5", end: "0 18 * * 1-5", replicas: 3}]',)
RENDERED = [
    ("compose", None, ()),
    ("compose", "compose", ()),
    ("compose", "compose", (*TLS, *APART)),
    ("compose", "compose", GPU),
    ("kubernetes", "cluster", ()),
    ("kubernetes", "cluster", (*TLS, *APART)),
    ("kubernetes", "cluster", GPU),
    ("kubernetes", "cluster", KEDA),
    ("helm", "cluster", ()),
    ("helm", "cluster", GPU),
    ("helm", "cluster", KEDA),
    ("kserve", "cluster", ()),
    ("kserve", "cluster", (*ZERO, "serve.targets.kserve.canary_percent=10")),
    ("kserve", "cluster", GPU),
    ("kuberay", "cluster", ()),
    ("kuberay", "cluster", ("serve.targets.resources.gpus=1", "serve.targets.kubernetes.pull_secret=registry")),
]
NAMES = [
    f"{target}-{'-'.join(o.partition('=')[0].rpartition('.')[2] for o in overrides) or profile}"
    for target, profile, overrides in RENDERED
]


def job(tmp_path: Path, profile: str | None, overrides: tuple[str, ...] = ()) -> Job:
    """A job of a bundle that needs no base, and so no files but its own."""
    config = load(PROJECT, profile=profile, overrides=list(overrides))
    serve = config.serve
    manifest = Manifest(
        lineage=LINEAGE,
        base=None,
        base_digest=None,
        method="scratch",
        quantization="nf4",
        dtype="float32",
        sampling=serve.sampling,
        guards=serve.guards,
        files={},
        digest="ab" * 32,
    )
    return Job(config, tmp_path / "bundle", manifest, lambda url, key=None: None)


def planned(tmp_path: Path, target: str, profile: str | None, overrides: tuple[str, ...] = ()) -> Plan:
    return targets.named(target).plan(job(tmp_path, profile, overrides))


def manifests(plan: Plan) -> dict[str, dict[str, Any]]:
    return {file: yaml.safe_load(text) for file, text in plan.files.items() if file.endswith(".yaml")}


@pytest.mark.parametrize(("target", "profile", "overrides"), RENDERED, ids=NAMES)
def test_it_is_valid_and_holds_no_secret(
    tmp_path: Path, target: str, profile: str | None, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter-two")
    monkeypatch.setenv("REDIS_PASSWORD", "hunter-two")
    plan = planned(tmp_path, target, profile, overrides)
    assert plan.checks
    assert plan.acts
    assert not any("hunter-two" in text for text in plan.files.values())
    assert not list(tmp_path.iterdir())  # nothing was written


def test_a_broken_scaled_object_is_refused_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = targets.named("kubernetes").objects(job(tmp_path, "cluster", KEDA))  # type: ignore[attr-defined]
    scaled = next(each for each in made.values() if each["kind"] == "ScaledObject")
    assert schemas.keda("hpa.yaml", scaled) == []
    broken = copy.deepcopy(scaled)
    broken["spec"]["triggers"][0]["metdata"] = broken["spec"]["triggers"][0].pop("metadata")
    broken["spec"]["maxReplicaCount"] = "many"
    told = " ".join(schemas.keda("hpa.yaml", broken))
    assert "hpa.yaml: spec.maxReplicaCount: 'many'" in told
    assert "spec.triggers[0]: 'metadata' is a required property" in told and "'metdata' was unexpected" in told


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"),
            "http",
            "is not of type 'integer'",
        ),
        (("spec", "template", "spec", "containers", 0, "image"), 7, "is not of type 'string'"),
        (("spec", "template", "spec", "tolerations"), [{"effekt": "NoSchedule"}], "'effekt' was unexpected"),
        (("spec", "selector"), "reply-writer", "is not of type 'object'"),
        (("spec", "strategy", "rollingUpdate", "maxSurge"), [1], "is not valid under any of the given schemas"),
    ],
)
def test_a_broken_manifest_is_refused_with_its_path(
    tmp_path: Path, path: tuple[Any, ...], value: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = targets.named("kubernetes").objects(job(tmp_path, "cluster"))  # type: ignore[attr-defined]
    broken = copy.deepcopy(made["deployment"])
    spot = broken
    for part in path[:-1]:
        spot = spot[part]
    spot[path[-1]] = value
    monkeypatch.setattr("forgeline.serving.targets.manifests.deployment", lambda job, told: broken)
    with pytest.raises(ServingError, match="The kubernetes target is refused, 1 fault") as refused:
        planned(tmp_path, "kubernetes", "cluster")
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    assert f"03-deployment.yaml: {shown}" in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("target", "where"),
    [
        ("kubernetes", "03-deployment.yaml: spec.template.spec.tolerations[0]"),
        ("helm", "templates/deployment.yaml: spec.template.spec.tolerations[0]"),
        ("kserve", "03-inferenceservice.yaml: spec.predictor.tolerations[0]"),
        ("kuberay", "08-rayservice.yaml: spec.rayClusterConfig.workerGroupSpecs[0].template.spec.tolerations[0]"),
    ],
)
def test_what_a_user_adds_to_the_pods_is_checked_too(tmp_path: Path, target: str, where: str) -> None:
    with pytest.raises(ServingError) as refused:
        planned(tmp_path, target, "cluster", ("serve.targets.kubernetes.pod={tolerations: [{effekt: NoSchedule}]}",))
    assert where in str(refused.value)


def test_a_broken_compose_file_is_refused_with_its_path(tmp_path: Path) -> None:
    project = yaml.safe_load(planned(tmp_path, "compose", "compose", GPU).files["compose.yaml"])
    devices = project["services"]["engine"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    devices[0]["capabilities"] = "gpu"
    project["services"]["gateway"]["prots"] = []
    faults = schemas.compose("compose.yaml", project)
    path = "compose.yaml: services.engine.deploy.resources.reservations.devices[0].capabilities: "
    assert any(fault.startswith(path) for fault in faults)
    assert any("services.gateway: " in fault and "prots" in fault for fault in faults)


def test_a_broken_application_is_refused_with_its_path(tmp_path: Path) -> None:
    from forgeline.serving.targets.kuberay import application_faults, served

    work = job(tmp_path, "cluster")
    config = served(work, targets.named("kuberay").told(work))  # type: ignore[attr-defined]
    config["applications"][0]["deployments"][0]["autoscaling_config"]["max_replicas"] = "many"
    (fault,) = application_faults(yaml.safe_dump(config))
    assert fault.startswith("serveConfigV2: applications.0.deployments.0.autoscaling_config.max_replicas: ")


@pytest.mark.parametrize(
    ("target", "profile", "overrides", "told"),
    [
        ("kubernetes", None, (), "serve.store is a SQLite file"),
        ("kubernetes", "compose", ("serve.access.behind_proxy=true",), "serve.store is on loopback"),
        (
            "kubernetes",
            "cluster",
            ("serve.access.behind_proxy=false",),
            "serve.access.behind_proxy if something in front",
        ),
        ("kubernetes", "cluster", ZERO, "deploy to kserve"),
        ("kubernetes", "cluster", (*TLS, "serve.targets.kubernetes.certificate=null"), "name its Secret"),
        ("kubernetes", "cluster", ("serve.engine.name=ray",), "deploy to kuberay"),
        ("kserve", "cluster", KEDA, "neither serve.scaling.schedule"),
        ("kserve", "cluster", TLS, "Knative's ingress ends TLS"),
        ("kuberay", "cluster", ("serve.engine.name=openvino",), "serve.engine is openvino"),
        ("compose", None, ("serve.access.anonymous=[caller]",), "anonymous is for loopback only"),
        ("compose", None, ("serve.host=0.0.0.0",), "serve.host is 0.0.0.0"),
        ("compose", None, ("serve.limits.redis=redis://127.0.0.1:6379/0",), "does not look like scheme://user:"),
        ("compose", None, ("serve.others={fast: {name: vllm}}",), "serve.others.fast is vllm"),
    ],
)
def test_what_cannot_be_had_there_is_a_sentence(
    tmp_path: Path, target: str, profile: str | None, overrides: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ServingError) as refused:
        planned(tmp_path, target, profile, overrides)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("target", "profile", "package"),
    [("kubernetes", "cluster", "kubernetes_validate"), ("compose", None, "check_jsonschema")],
)
def test_without_the_schemas_it_is_a_sentence(
    tmp_path: Path, target: str, profile: str | None, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ServingError, match=r"not here: pip install 'forgeline\[containers\]'\.$"):
        planned(tmp_path, target, profile)


def test_pods_are_hardened_and_drain(tmp_path: Path) -> None:
    made = manifests(planned(tmp_path, "kubernetes", "cluster", APART))
    spec = made["03-deployment.yaml"]["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] == ["gateway", "engine"]
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    gateway, engine = spec["containers"]
    drain, grace = 30, spec["terminationGracePeriodSeconds"]
    assert gateway["lifecycle"]["preStop"]["sleep"]["seconds"] + drain < grace
    assert engine["lifecycle"]["preStop"]["sleep"]["seconds"] >= drain + 5  # it outlives the gateway's drain
    assert {each["name"] for each in gateway["env"]} == {"DB_PASSWORD", "REDIS_PASSWORD"}
    order = json.loads(made["01-settings.yaml"]["data"]["order.json"])
    assert order["serve"]["engine"] == order["serve"]["engine"] | {"name": "url", "url": "http://127.0.0.1:8700/v1"}
    assert order["serve"]["access"]["hosts"][-1] == "replies.example.org"


def test_only_whom_serve_yaml_names_gets_in_and_out(tmp_path: Path) -> None:
    policy = manifests(planned(tmp_path, "kubernetes", "cluster"))["07-network.yaml"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    assert sorted(ports) == [53, 53, 443, 5432, 6379]
    names = [
        each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for each in policy["ingress"][0]["from"]
    ]
    assert names == ["ingress-nginx", "monitoring"]


def test_other_settings_have_another_name(tmp_path: Path) -> None:
    first, second = (
        manifests(planned(tmp_path, "kubernetes", "cluster", overrides))["01-settings.yaml"]["metadata"]["name"]
        for overrides in ((), ("serve.limits.max_queue=7",))
    )
    assert first != second


def test_compose_makes_services_of_what_is_on_loopback(tmp_path: Path) -> None:
    plan = planned(tmp_path, "compose", "compose", (*TLS, *APART))
    project = manifests(plan)["compose.yaml"]
    assert set(project["services"]) == {"gateway", "engine", "postgres", "redis", "prometheus", "grafana"}
    order = json.loads(plan.files["order/order.json"])["serve"]
    assert order["store"] == "postgresql+psycopg://forgeline:${env:DB_PASSWORD}@postgres/gateway"
    assert order["limits"]["redis"] == "redis://:${env:REDIS_PASSWORD}@redis/0"
    gateway, engine = project["services"]["gateway"], project["services"]["engine"]
    assert gateway["environment"]["DB_PASSWORD"] == "${DB_PASSWORD:?export it first}"  # noqa: S105
    assert gateway["ports"] == ["127.0.0.1:8600:8600"]
    assert engine["network_mode"] == "service:gateway"
    assert engine["entrypoint"] + engine["command"][:2] == ["python", "-m", "forgeline.serving.engines.server"]
    scraping = yaml.safe_load(plan.files["prometheus.yml"])["scrape_configs"][0]
    assert (scraping["scheme"], scraping["static_configs"]) == ("https", [{"targets": ["gateway:8600"]}])


def test_every_metric_of_the_dashboard_is_one_of_the_gateways(url: str) -> None:
    import re
    from urllib.request import urlopen

    from forgeline.serving.targets.dashboard import dashboard

    with urlopen(f"{url}/metrics", timeout=30) as answer:  # noqa: S310
        exposition = answer.read().decode()
    there = {
        name
        for told in re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE)
        for name in ([f"{told[0]}_bucket"] if told[1] == "histogram" else [told[0]])
    }
    asked = set(re.findall(r"forgeline_\w+", json.dumps(dashboard())))
    assert asked
    assert asked <= there
