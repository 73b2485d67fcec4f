"""The chart, rendered by Helm's own library: with its default values it is what `kubernetes` would apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from test_manifests import GPU, KEDA, job

from forgeline.serving import targets
from forgeline.serving.targets import schemas

helm = pytest.importorskip("helm_python")
HOST = ("serve.targets.kubernetes.host=null",)


@pytest.fixture
def chart(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    targets.named("helm").plan(job(tmp_path, "cluster", getattr(request, "param", ()))).write(tmp_path)
    return tmp_path / "chart"


def rendered(chart: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    with helm.Chart.load(str(chart)) as loaded:
        texts = loaded.render(values, name="replies", namespace="forgeline")
    return {Path(path).stem: yaml.safe_load(text) for path, text in texts.items()}


@pytest.mark.parametrize("chart", [(), GPU, KEDA, HOST], indirect=True, ids=["whole", "gpu", "keda", "no host"])
def test_its_default_values_give_what_kubernetes_would_apply(
    chart: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    overrides = request.node.callspec.params["chart"]
    wanted = targets.named("helm").objects(job(tmp_path, "cluster", overrides))  # type: ignore[attr-defined]
    found = rendered(chart, {})
    assert found == wanted
    for kind, manifest in found.items():
        if kind != "scaledobject":
            assert schemas.kubernetes(kind, manifest) == []
    findings = helm.lint(str(chart))
    assert findings["errors"] == []
    assert [each["error"] for each in findings["messages"]] == ["icon is recommended"]


def test_its_values_go_where_they_belong(chart: Path) -> None:
    values = {
        "image": "example.org/other@sha256:" + "0" * 64,
        "minReplicas": 3,
        "resources": {"limits": {"memory": "8Gi"}},
        "allowedFrom": [{"namespaceSelector": {}}],
        "host": "other.example.org",
    }
    before, after = rendered(chart, {}), rendered(chart, values)
    pod = after["deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == values["image"]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    assert after["hpa"]["spec"]["minReplicas"] == 3
    assert after["network"]["spec"]["ingress"][0]["from"] == [{"namespaceSelector": {}}]
    assert after["ingress"]["spec"]["rules"][0]["host"] == "other.example.org"
    assert after["ingress"]["spec"]["tls"][0]["hosts"] == ["other.example.org"]
    assert '"other.example.org"' in after["settings"]["data"]["order.json"]
    named = after["settings"]["metadata"]["name"]  # other settings, another name, and the pods are rolled
    assert named != before["settings"]["metadata"]["name"]
    assert pod["volumes"][0]["configMap"]["name"] == named


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"minReplicas": "three"}, "at '/minReplicas': got string, want integer"),
        ({"resources": {"limits": {"memory": []}}}, "at '/resources/limits/memory': got array, want number or string"),
        ({"allowedFrom": []}, "at '/allowedFrom': minItems"),  # which would let everybody in
        ({"image": ""}, "at '/image': minLength"),
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(chart: Path, values: dict[str, Any], told: str) -> None:
    with helm.Chart.load(str(chart)) as loaded, pytest.raises(helm.HelmError) as refused:
        loaded.validate_schema(values)
    assert told in str(refused.value)
