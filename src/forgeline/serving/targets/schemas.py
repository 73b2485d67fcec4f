"""What is rendered is held against published schemas, which packages bring: nothing is asked over the network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from forgeline.errors import ServingError

KUBERNETES = "1.37"
INSTALL = "pip install 'forgeline[containers]'"


def kubernetes(file: str, manifest: dict[str, Any]) -> list[str]:
    """Return the faults of an object of Kubernetes' own kinds; unknown fields are faults too.

    Raises:
        ServingError: if the package with the schemas is not installed.
    """
    try:
        import kubernetes_validate
    except ImportError:
        raise ServingError(f"Manifests are held against Kubernetes' schemas, which are not here: {INSTALL}.") from None
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [_told(file, manifest, fault)]
    except kubernetes_validate.SchemaNotFoundError as fault:
        return [f"{file}: {fault.message}"]
    return []


def keda(file: str, scaled: dict[str, Any]) -> list[str]:
    """Return the faults of a ScaledObject, by the models that Cloudcoil makes of KEDA's own definitions.

    Unknown fields are faults too.

    Raises:
        ServingError: if the package with the models is not installed.
    """
    try:
        from cloudcoil.models.keda.v1alpha1 import ScaledObject
    except ImportError:
        raise ServingError(f"ScaledObjects are held against KEDA's schema, which is not here: {INSTALL}.") from None
    schema = ScaledObject.model_json_schema(by_alias=True)
    for each in (schema, *schema["$defs"].values()):
        if "properties" in each:
            each["additionalProperties"] = False
    return against(file, schema, scaled)


def pod(file: str, path: str, spec: dict[str, Any]) -> list[str]:
    """Return the faults of a pod's spec that stands at `path` in an object of another kind."""
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
    return [fault.replace(" spec", f" {path}", 1) for fault in kubernetes(file, manifest)]


def compose(file: str, project: dict[str, Any]) -> list[str]:
    """Return the faults of a compose project, by the Compose Specification's schema.

    Raises:
        ServingError: if the package with the schema is not installed.
    """
    try:
        vendored = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    except ImportError:
        raise ServingError(
            f"compose.yaml is held against the Compose Specification, which is not here: {INSTALL}."
        ) from None
    return against(file, json.loads(vendored.read_text(encoding="utf-8")), project)


def against(file: str, schema: dict[str, Any], value: Any) -> list[str]:
    """Return the faults of a value by a JSON schema, each with its path."""
    from jsonschema import validators

    validator = validators.validator_for(schema)(schema)
    return [_told(file, value, fault) for fault in sorted(validator.iter_errors(value), key=lambda e: e.json_path)]


def _told(file: str, value: Any, fault: Any) -> str:
    """Return a fault as `file: path: what`; of alternatives, the one that comes nearest."""
    from jsonschema.exceptions import best_match

    deepest = best_match([fault]) or fault
    return f"{file}: {_path(deepest.absolute_path) or 'the whole'}: {deepest.message[:300]}"


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
