"""A function of AWS Lambda from the image, at an address of its own; a new version is tried before it is live.

The gateway speaks HTTP, and Lambda hands events over: the Lambda Web Adapter, an extension in the image
(`deploy/clouds.Dockerfile`), stands between. The function's address is open, and the gateway asks for its keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import (
    COMMAND,
    PORT,
    answering,
    aws,
    container,
    facts,
    given,
    rendered,
    service,
    stays,
    wait,
)

NAME, KEY = "lambda", "aws_lambda"
LIVE, TRIAL = "live", "trial"  # aliases: what callers ask, and what is being tried
LONGEST, DRAIN = 895, 1  # Lambda gives a request 900 s, and a container next to nothing to end
MOST_ENVIRONMENT = 4096  # bytes; AWS documents it, and its model does not hold it
ADAPTER = {
    "AWS_LWA_PORT": str(PORT),
    "AWS_LWA_READINESS_CHECK_PATH": "/readyz",
    "AWS_LWA_ASYNC_INIT": "true",  # a model takes longer to load than the 10 s that Lambda gives a start
    "AWS_LWA_INVOKE_MODE": "response_stream",
}
OPERATIONS = {
    "function.json": ("lambda", "CreateFunction"),
    "code.json": ("lambda", "UpdateFunctionCode"),
    "configuration.json": ("lambda", "UpdateFunctionConfiguration"),
    "url.json": ("lambda", "CreateFunctionUrlConfig"),
    "permission-url.json": ("lambda", "AddPermission"),
    "permission-invoke.json": ("lambda", "AddPermission"),
    "concurrency.json": ("lambda", "PutFunctionConcurrency"),
    "provisioned.json": ("lambda", "PutProvisionedConcurrencyConfig"),
}


class AwsLambda:
    """The target `lambda`; `interval` is the seconds between two looks at what AWS is doing."""

    tried = "held against botocore's model and moto, not run in AWS"

    def __init__(self, interval: float = 5) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the requests' bodies."""
        bodies = _bodies(job)
        files = {path: rendered(body) for path, body in bodies.items()}
        checks, faults = aws.check(files, {path: OPERATIONS[path] for path in files})
        size = sum(len(f"{key}{value}".encode()) for key, value in _environment(bodies).items())
        if size > MOST_ENVIRONMENT:
            faults.append(f"function.json: Environment: {size} bytes are more than the {MOST_ENVIRONMENT} of Lambda")
        if faults:
            refuse(NAME, faults)
        return Plan(
            files,
            tuple(checks),
            (
                f"the function {bodies['function.json']['FunctionName']}, made or changed, and a new version of it",
                f"the smoke test at an address of the alias {TRIAL}; {LIVE} answers as before",
                f"{LIVE} is moved to the new version, and {TRIAL} goes",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Publish a version, try it, and let callers have it; until then they get the one before."""
        asked = given(job, NAME, KEY)
        bodies = {path: json.loads(text) for path, text in plan.files.items()}
        function = bodies["function.json"]["FunctionName"]
        with aws.spoken(NAME):
            sdk = aws.client("lambda", asked.region)
            live = _aliased(sdk, function, LIVE)
            about = facts(job, region=asked.region, function=function)
            stays(job, NAME, about, "region", "function")
            if live is None:
                remember(job.config.root, NAME, {**about, "version": "none yet"})
            number = None
            try:
                number = self._published(sdk, bodies)
                job.smoke(answering(_door(sdk, bodies, TRIAL, number), self._interval))
            except BaseException:
                _drop_alias(sdk, function, TRIAL)
                if live is None:
                    self.destroy(job.config.root)
                elif number is not None and number != live:
                    sdk.delete_function(FunctionName=function, Qualifier=number)
                raise
            about |= {"url": _door(sdk, bodies, LIVE, number), "number": number}
            remember(job.config.root, NAME, about)
            _drop_alias(sdk, function, TRIAL)
            aws.call(sdk, "PutFunctionConcurrency", bodies["concurrency.json"], NAME)
            if "provisioned.json" in bodies:
                aws.call(sdk, "PutProvisionedConcurrencyConfig", bodies["provisioned.json"], NAME)
            _drop_versions(sdk, function, keep={number, live})
        return about

    def status(self, root: Path) -> Running | None:
        """Return how the function is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with aws.spoken(NAME):
            sdk = aws.client("lambda", known["region"])
            number = _aliased(sdk, known["function"], LIVE)
            if number is None:
                return Running(health="gone", version=known["version"])
            seen = sdk.get_function_configuration(FunctionName=known["function"], Qualifier=number)
        told = {"function": seen["FunctionArn"], "state": seen["State"], "memory": f"{seen['MemorySize']} MB"}
        answers = seen["State"] in {"Active", "Inactive"}  # which is asleep, and wakes
        health: Any = "ready" if answers else "not ready"
        return Running(health=health, version=known["version"], url=known.get("url"), facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the containers wrote."""
        if known := remembered(root, NAME):
            with aws.spoken(NAME):
                yield from aws.tail(known["region"], f"/aws/lambda/{known['function']}", lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete the function, with its versions, aliases and addresses."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with aws.spoken(NAME), aws.absent():
            sdk = aws.client("lambda", known["region"])
            for alias in (TRIAL, LIVE):
                _drop_alias(sdk, known["function"], alias)
            sdk.delete_function(FunctionName=known["function"])
        forget(root, NAME)
        return {"function": known["function"], "region": known["region"]}

    def _published(self, sdk: Any, bodies: dict[str, Any]) -> str:
        """Make or change the function; return the number of a new version of it."""
        function = bodies["function.json"]["FunctionName"]
        if _configured(sdk, function) is None:
            aws.call(sdk, "CreateFunction", bodies["function.json"], NAME)
            self._settle(sdk, function)
        else:
            for path in ("code.json", "configuration.json"):
                aws.call(sdk, OPERATIONS[path][1], bodies[path], NAME)
                self._settle(sdk, function)
        number = str(sdk.publish_version(FunctionName=function)["Version"])
        self._settle(sdk, function, number)
        return number

    def _settle(self, sdk: Any, function: str, number: str = "$LATEST") -> None:
        def look() -> dict[str, Any] | None:
            seen: dict[str, Any] = sdk.get_function_configuration(FunctionName=function, Qualifier=number)
            busy = seen.get("State") == "Pending" or seen.get("LastUpdateStatus") == "InProgress"
            return None if busy else seen

        seen = wait(f"The function {function}", look, self._interval, seconds=900)
        if "Failed" in (seen.get("State"), seen.get("LastUpdateStatus")):
            why = seen.get("StateReason") or seen.get("LastUpdateStatusReason")
            raise ServingError(f"Lambda cannot run {function}: {why}")


def _bodies(job: Job) -> dict[str, Any]:
    asked, scaling = given(job, NAME, KEY), job.config.serve.scaling
    faults = []
    if scaling.schedule or scaling.first_token is not None:
        faults.append("serve.scaling: Lambda has a container a request; leave schedule and first_token out here")
    runs = container(job, NAME, platform=False, longest=LONGEST, drain=DRAIN, faults=faults)
    function = service(job)
    configuration = {
        "FunctionName": function,
        "Role": asked.role,
        "Timeout": LONGEST + 5,
        "MemorySize": asked.memory,
        "EphemeralStorage": {"Size": asked.disk},
        "Environment": {"Variables": runs.environment | ADAPTER},
        "ImageConfig": {"EntryPoint": [*COMMAND]},
    }
    bodies = {
        "function.json": {
            **configuration,
            "PackageType": "Image",
            "Code": {"ImageUri": runs.image},
            "Architectures": [asked.architecture],
        },
        "code.json": {"FunctionName": function, "ImageUri": runs.image, "Architectures": [asked.architecture]},
        "configuration.json": configuration,
        "url.json": {
            "FunctionName": function,
            "Qualifier": LIVE,
            "AuthType": "NONE",  # the gateway asks for its own keys
            "InvokeMode": "RESPONSE_STREAM",
        },
        "permission-url.json": {
            "FunctionName": function,
            "Qualifier": LIVE,
            "StatementId": "open-url",
            "Action": "lambda:InvokeFunctionUrl",
            "Principal": "*",
            "FunctionUrlAuthType": "NONE",
        },
        "permission-invoke.json": {
            "FunctionName": function,
            "Qualifier": LIVE,
            "StatementId": "open-invoke",
            "Action": "lambda:InvokeFunction",
            "Principal": "*",
            "InvokedViaFunctionUrl": True,
        },
        "concurrency.json": {"FunctionName": function, "ReservedConcurrentExecutions": scaling.max_replicas},
    }
    if scaling.min_replicas:
        warm = {"ProvisionedConcurrentExecutions": scaling.min_replicas}
        bodies["provisioned.json"] = {"FunctionName": function, "Qualifier": LIVE, **warm}
    return bodies


def _environment(bodies: dict[str, Any]) -> dict[str, str]:
    variables: dict[str, str] = bodies["function.json"]["Environment"]["Variables"]
    return variables


def _configured(sdk: Any, function: str) -> dict[str, Any] | None:
    with aws.absent():
        seen: dict[str, Any] = sdk.get_function_configuration(FunctionName=function)
        return seen
    return None


def _aliased(sdk: Any, function: str, alias: str) -> str | None:
    with aws.absent():
        return str(sdk.get_alias(FunctionName=function, Name=alias)["FunctionVersion"])
    return None


def _door(sdk: Any, bodies: dict[str, Any], alias: str, number: str) -> str:
    """Let an alias lead to a version; return its address."""
    function = bodies["function.json"]["FunctionName"]
    if _aliased(sdk, function, alias) is None:
        sdk.create_alias(FunctionName=function, Name=alias, FunctionVersion=number)
    else:
        sdk.update_alias(FunctionName=function, Name=alias, FunctionVersion=number)
    with aws.absent():
        found = sdk.get_function_url_config(FunctionName=function, Qualifier=alias)
        return str(found["FunctionUrl"]).rstrip("/")
    made = aws.call(sdk, "CreateFunctionUrlConfig", {**bodies["url.json"], "Qualifier": alias}, NAME)
    for path in ("permission-url.json", "permission-invoke.json"):
        aws.call(sdk, "AddPermission", {**bodies[path], "Qualifier": alias}, NAME)
    return str(made["FunctionUrl"]).rstrip("/")


def _drop_alias(sdk: Any, function: str, alias: str) -> None:
    with aws.absent():
        sdk.delete_function_url_config(FunctionName=function, Qualifier=alias)
    with aws.absent():
        sdk.delete_alias(FunctionName=function, Name=alias)


def _drop_versions(sdk: Any, function: str, keep: set[str | None]) -> None:
    pages = sdk.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    for number in [each["Version"] for page in pages for each in page["Versions"]]:
        if number not in {"$LATEST", *keep}:
            sdk.delete_function(FunctionName=function, Qualifier=number)
