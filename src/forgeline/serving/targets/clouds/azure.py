"""Azure by its own SDK: bodies are read into its models and written back before any is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Check

MISSING = "The Azure ML target needs the Azure SDK: pip install 'forgeline[azure]'."
Models = dict[str, tuple[str, str]]
"""For each file, the package whose model it is, and the model's name."""


def clients(subscription: str) -> tuple[Any, Any]:
    """Return the clients of Azure ML and of Azure Monitor, with the credentials of this machine."""
    try:
        from azure.identity import DefaultAzureCredential
        from azure.mgmt.machinelearningservices import MachineLearningServicesMgmtClient
        from azure.mgmt.monitor import MonitorManagementClient
    except ModuleNotFoundError:
        raise ServingError(MISSING) from None
    credential = DefaultAzureCredential()
    return (
        MachineLearningServicesMgmtClient(credential, subscription),
        MonitorManagementClient(credential, subscription),
    )


def check(files: dict[str, str], models: Models) -> tuple[list[Check], list[str]]:
    """Read each file into the SDK's model and write it back: what is lost or altered on the way is a fault."""
    import importlib
    import logging
    from importlib.metadata import version

    from azure.core.exceptions import DeserializationError

    # It warns of each discriminator that it has itself taken out while reading.
    logging.getLogger("azure.mgmt.machinelearningservices._serialization").setLevel(logging.ERROR)
    checks, faults = [], list[str]()
    for path, (package, kind) in models.items():
        try:
            model = getattr(importlib.import_module(f"{package}.models"), kind)
        except ModuleNotFoundError:
            raise ServingError(MISSING) from None
        body = json.loads(files[path])
        try:
            read = model.deserialize(json.loads(files[path]))  # it takes parts out of what it reads
            written = read.serialize()
        except (DeserializationError, ValueError, TypeError, AttributeError) as fault:
            faults.append(f"{path}: {str(fault).splitlines()[0]}")
            continue
        faults += [f"{path}: {fault}" for fault in _differences(body, written, "")]
        faults += [f"{path}: {fault}" for fault in _missing(read, "")]
        checks.append(Check(path, f"{kind} of {package.replace('.', '-')} {version(package.replace('.', '-'))}"))
    return checks, faults


@contextmanager
def spoken() -> Iterator[None]:
    """Turn what the SDK raises into a sentence."""
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    try:
        yield
    except ClientAuthenticationError as fault:
        raise ServingError(
            "The azureml target cannot ask Azure: no credential was found or it is not good any more: run `az login`, "
            "or give this machine a managed identity."
        ) from fault
    except HttpResponseError as fault:
        why = fault.error.message if fault.error else str(fault.message).splitlines()[0]
        raise ServingError(f"Azure refused it ({fault.status_code}): {why}") from fault
    except AzureError as fault:
        raise ServingError(f"The azureml target cannot reach Azure: {fault.message}") from fault


def found(ask: Any) -> Any:
    """Return what is asked for, None if it is not there."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return ask()
    except ResourceNotFoundError:
        return None


def _differences(sent: Any, written: Any, path: str) -> Iterator[str]:
    if isinstance(sent, dict) and isinstance(written, dict):
        for key, value in sent.items():
            where = f"{path}.{key}".lstrip(".")
            if key not in written:
                yield f"{where}: the SDK's model has no such field, or only Azure sets it"
            else:
                yield from _differences(value, written[key], where)
    elif isinstance(sent, list) and isinstance(written, list) and len(sent) == len(written):
        for place, (one, other) in enumerate(zip(sent, written, strict=True)):
            yield from _differences(one, other, f"{path}[{place}]")
    elif sent != written:
        yield f"{path}: {sent!r} is not what it takes"


def _missing(read: Any, path: str) -> Iterator[str]:
    """Yield what the SDK's model requires and is not there."""
    for name, told in read._attribute_map.items():
        rules, value = read._validation.get(name, {}), getattr(read, name)
        where = f"{path}.{told['key']}".lstrip(".")
        if value is None and rules.get("required") and not rules.get("readonly"):
            yield f"{where}: is missing"
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if hasattr(part, "_attribute_map"):
                yield from _missing(part, where)
