"""AWS by boto3: requests are held against botocore's own model of the API before any is sent."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Check
from forgeline.serving.targets.clouds import filled

GONE = {"ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException", "ValidationException"}
MISSING = "The AWS targets need boto3: pip install 'forgeline[aws]'."
LOG_IN = "no AWS credentials were found: run `aws configure sso` or `aws configure`, or give this machine a role."


def client(service: str, region: str) -> Any:
    """Return the SDK's client; credentials come from its own chain when it first asks."""
    try:
        import boto3
    except ModuleNotFoundError:
        raise ServingError(MISSING) from None
    return boto3.client(service, region_name=region)


def check(files: dict[str, str], operations: dict[str, tuple[str, str]]) -> tuple[list[Check], list[str]]:
    """Hold each file, the body of an operation of a service, against the SDK's model; return why, and the faults."""
    models = {service: client(service, "us-east-1").meta.service_model for service, _ in operations.values()}
    from botocore import __version__
    from botocore.validate import ParamValidator

    checks, faults = [], list[str]()
    for path, (service, operation) in operations.items():
        model = models[service]
        shape = model.operation_model(operation).input_shape
        body = json.loads(files[path])
        report = ParamValidator().validate(body, shape)
        faults += [f"{path}: {line}" for line in report.generate_report().splitlines()]
        if not report.has_errors():
            faults += [f"{path}: {fault}" for fault in _bounds(body, shape, "")]
        checks.append(Check(path, f"{operation} of {service} {model.api_version}, botocore {__version__}"))
    return checks, faults


def call(sdk: Any, operation: str, body: dict[str, Any], target: str) -> Any:
    """Send a planned body, with its secrets."""
    from botocore import xform_name

    return getattr(sdk, xform_name(operation))(**filled(body, target))


@contextmanager
def spoken(target: str) -> Iterator[None]:
    """Turn what the SDK raises into a sentence."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
        TokenRetrievalError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError) as fault:
        raise ServingError(f"The {target} target cannot ask AWS: {LOG_IN}") from fault
    except ClientError as fault:
        told = fault.response["Error"]
        if told["Code"] in {"ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException"}:
            raise ServingError(f"The {target} target cannot ask AWS: {told['Message']}: log in again.") from fault
        raise ServingError(f"AWS refused {fault.operation_name} ({told['Code']}): {told['Message']}") from fault
    except BotoCoreError as fault:
        raise ServingError(f"The {target} target cannot reach AWS: {fault}") from fault


@contextmanager
def absent() -> Iterator[None]:
    """Let what is to be deleted be gone already."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as fault:
        told = fault.response["Error"]
        is_gone = told["Code"] in GONE and re.search("not (find|found|exist)|no scal", told["Message"], re.IGNORECASE)
        if not (is_gone or told["Code"] == "ResourceNotFoundException"):
            raise


def offered(region: str, instance_type: str) -> None:
    """Look whether a region has an instance type, which for SageMaker is EC2's with `ml.` before it.

    Raises:
        ServingError: if it has not.
    """
    name = instance_type.removeprefix("ml.")
    pages = client("ec2", region).get_paginator("describe_instance_type_offerings").paginate(LocationType="region")
    there = {each["InstanceType"] for page in pages for each in page["InstanceTypeOfferings"]}
    if name not in there:
        near = ", ".join(f"ml.{each}" for each in difflib.get_close_matches(name, sorted(there), n=3))
        raise ServingError(
            f"{region} has no {instance_type}{f' (it has {near})' if near else ''}: set "
            "serve.targets.sagemaker.instance_type, or another region. Nothing was made."
        )


def tail(region: str, group: str, lines: int) -> Iterator[str]:
    """Yield the last lines of a group of CloudWatch logs."""
    logs = client("logs", region)
    with absent():
        streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=5)
        events = [
            event
            for stream in streams["logStreams"]
            for event in logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], limit=lines, startFromHead=False
            )["events"]
        ]
        for event in sorted(events, key=lambda event: event["timestamp"])[-lines:]:
            yield event["message"].rstrip("\n") + "\n"


def _bounds(value: Any, shape: Any, path: str) -> Iterator[str]:
    """Yield what botocore's own validator lets pass: values that an enumeration, a length or a pattern forbids."""
    match shape.type_name:
        case "structure":
            for name, part in value.items():
                yield from _bounds(part, shape.members[name], f"{path}.{name}".lstrip("."))
        case "list":
            for place, part in enumerate(value):
                yield from _bounds(part, shape.member, f"{path}[{place}]")
        case "map":
            for name, part in value.items():
                yield from _bounds(part, shape.value, f"{path}.{name}")
        case "string":
            yield from _text(value, shape, path)
        case "integer" | "long" | "float" | "double" if value > shape.metadata.get("max", value):
            yield f"{path}: {value} is more than {shape.metadata['max']}"


def _text(value: str, shape: Any, path: str) -> Iterator[str]:
    if shape.enum and value not in shape.enum:
        near = difflib.get_close_matches(value, shape.enum, n=3) or shape.enum[:3]
        yield f"{path}: {value!r} is none of the {len(shape.enum)} that there are, such as {', '.join(near)}"
    if len(value) > shape.metadata.get("max", len(value)):
        yield f"{path}: {len(value)} characters are more than {shape.metadata['max']}"
    try:
        if not re.fullmatch(shape.metadata.get("pattern", r"(?s).*"), value):
            yield f"{path}: {value!r} is not of the form {shape.metadata['pattern']}"
    except re.error:  # Java knows classes that Python does not
        pass
