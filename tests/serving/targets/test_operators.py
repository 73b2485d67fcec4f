"""InferenceService and RayService against what their makers publish.

KServe's Python models name every field and its type; the package's file is read, not run. KubeRay's schema comes with
no package: with `FORGELINE_CRDS`, a folder of custom resource definitions, objects are held against those.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_manifests import GPU, KEDA, ZERO, job

from forgeline.serving import targets
from forgeline.serving.targets import schemas
from forgeline.serving.targets.kserve import PREDICTOR
from forgeline.sources import resolve

MODELS = "pypi://kserve==0.21.0/kserve/models/{}.py#sha256={}"
KSERVE = "df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b"
CRDS = os.environ.get("FORGELINE_CRDS")
PYTHON = {"int": int, "str": str, "bool": bool}
CANARY = (*ZERO, "serve.targets.kserve.canary_percent=10")


def fields(model: str) -> dict[str, str]:
    """Return a model's fields, as Kubernetes writes them, and their types."""
    source = resolve(MODELS.format(model, KSERVE), Path())[0].read_text(encoding="utf-8")
    (made,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    said = {
        target.id: ast.literal_eval(node.value)
        for node in made.body
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
        if target.id in {"openapi_types", "attribute_map"}
    }
    return {written: said["openapi_types"][name] for name, written in said["attribute_map"].items()}


@pytest.mark.parametrize("overrides", [(), CANARY, GPU], ids=["whole", "canary", "gpu"])
def test_an_inference_service_has_the_fields_that_kserve_knows(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    made = targets.named("kserve").objects(job(tmp_path, "cluster", overrides))  # type: ignore[attr-defined]
    service = made["inferenceservice"]
    assert set(service) <= set(fields("v1beta1_inference_service"))
    assert set(service["spec"]) <= set(fields("v1beta1_inference_service_spec"))
    known = fields("v1beta1_predictor_spec")
    assert set(PREDICTOR["properties"]) <= set(known)
    for field, value in service["spec"]["predictor"].items():
        kind = known[field].partition("[")[0]
        assert isinstance(value, PYTHON.get(kind, list if kind == "list" else dict)), (field, known[field])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a definition's schema that refuses unknown fields, as the API server does when asked to."""
    made = {key: value for key, value in schema.items() if key not in {"properties", "items", "additionalProperties"}}
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = strict(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


@pytest.mark.skipif(CRDS is None, reason="FORGELINE_CRDS names no folder of custom resource definitions")
@pytest.mark.parametrize(
    ("target", "overrides"),
    [("kserve", ()), ("kserve", CANARY), ("kserve", GPU), ("kuberay", ()), ("kubernetes", KEDA)],
)
def test_it_is_what_the_custom_resource_definition_says(
    tmp_path: Path, target: str, overrides: tuple[str, ...]
) -> None:
    read = [yaml.load(path.read_bytes(), yaml.CSafeLoader) for path in Path(str(CRDS)).glob("*.yaml")]
    definitions = {each["spec"]["names"]["kind"]: each for each in read}
    made = targets.named(target).objects(job(tmp_path, "cluster", overrides))  # type: ignore[attr-defined]
    held = 0
    for file, manifest in made.items():
        if manifest["kind"] not in {"InferenceService", "RayService", "ScaledObject"}:
            continue
        versions = definitions[manifest["kind"]]["spec"]["versions"]
        wanted = manifest["apiVersion"].rpartition("/")[2]
        (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == wanted)
        asked = strict(schema)
        asked["properties"] |= {"metadata": {"type": "object"}}
        assert schemas.against(file, asked, manifest) == []
        broken = {**manifest, "spec": {**manifest["spec"], "unknown": 1}}
        assert any("unknown" in fault for fault in schemas.against(file, asked, broken))
        held += 1
    assert held == 1
