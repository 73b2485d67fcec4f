"""A real-time endpoint of SageMaker AI, changed blue/green with a canary and alarms that take it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.targets import Job, Plan, Running, forget, refuse, remember, remembered
from forgeline.serving.targets.clouds import aws, container, facts, given, release, rendered, service, stays, wait
from forgeline.serving.targets.clouds.relay import relay

NAME = "sagemaker"
VARIANT = "all"
LONGEST, DRAIN = 55, 25  # SageMaker gives a request 60 s, and a container 30 s to end
OPERATIONS = {
    "model.json": ("sagemaker", "CreateModel"),
    "endpoint-config.json": ("sagemaker", "CreateEndpointConfig"),
    "alarm.json": ("cloudwatch", "PutMetricAlarm"),
    "create-endpoint.json": ("sagemaker", "CreateEndpoint"),
    "update-endpoint.json": ("sagemaker", "UpdateEndpoint"),
    "scalable-target.json": ("application-autoscaling", "RegisterScalableTarget"),
    "scaling-policy.json": ("application-autoscaling", "PutScalingPolicy"),
}


class Sagemaker:
    """The target `sagemaker`; `interval` is the seconds between two looks at what AWS is doing."""

    tried = "held against botocore's model and moto, not run in AWS"

    def __init__(self, interval: float = 15) -> None:
        self._interval = interval

    def plan(self, job: Job) -> Plan:
        """Return the requests' bodies."""
        bodies = _bodies(job)
        files = {path: rendered(body) for path, body in bodies.items()}
        checks, faults = aws.check(files, OPERATIONS)
        if faults:
            refuse(NAME, faults)
        asked = given(job, NAME, NAME)
        return Plan(
            files,
            tuple(checks),
            (
                f"see whether {asked.region} has {asked.instance_type}",
                f"a model and an endpoint configuration, {bodies['model.json']['ModelName']}",
                f"the endpoint {bodies['create-endpoint.json']['EndpointName']}, made or changed blue/green",
                "wait until it is in service with them, and ask the smoke test through InvokeEndpoint",
                "its scaling; then what the version before was made of is deleted",
            ),
        )

    def deploy(self, job: Job, plan: Plan) -> dict[str, Any]:
        """Make or change the endpoint; what ran before goes on if the new version does not get into service."""
        asked = given(job, NAME, NAME)
        bodies = {path: json.loads(text) for path, text in plan.files.items()}
        name, endpoint = bodies["model.json"]["ModelName"], bodies["create-endpoint.json"]["EndpointName"]
        with aws.spoken(NAME):
            aws.offered(asked.region, asked.instance_type)
            sdk = aws.client("sagemaker", asked.region)
            before = _described(sdk, endpoint)
            if before and before["EndpointStatus"] == "Failed":  # nothing answers there, and it cannot be changed
                _remove_endpoint(sdk, endpoint, self._interval)
                before = None
            if before and before["EndpointStatus"] != "InService":
                raise ServingError(f"The endpoint {endpoint} is {before['EndpointStatus']}: wait until that is over.")
            former = before["EndpointConfigName"] if before else None
            about = facts(job, region=asked.region, endpoint=endpoint, config=name)
            stays(job, NAME, about, "region", "endpoint")
            if former is None:
                remember(job.config.root, NAME, {**about, "version": "none yet"})
            try:
                self._bring(sdk, job, bodies, former)
            except BaseException:
                self._take_back(sdk, job, bodies, former)
                raise
            remember(job.config.root, NAME, about)
            scaling = aws.client("application-autoscaling", asked.region)
            for path in ("scalable-target.json", "scaling-policy.json"):
                aws.call(scaling, OPERATIONS[path][1], bodies[path], NAME)
            _delete_others(sdk, endpoint, keep=name)
        return about

    def status(self, root: Path) -> Running | None:
        """Return how the endpoint is."""
        known = remembered(root, NAME)
        if known is None:
            return None
        with aws.spoken(NAME):
            seen = _described(aws.client("sagemaker", known["region"]), known["endpoint"])
        if seen is None:
            return Running(health="gone", version=known["version"])
        state = seen["EndpointStatus"]
        answers = state in {"InService", "Updating", "SystemUpdating", "RollingBack"}
        told = {"endpoint": seen["EndpointArn"], "state": state, "configuration": seen["EndpointConfigName"]}
        variants = seen.get("ProductionVariants", [])
        told["instances"] = str(sum(each.get("CurrentInstanceCount", 0) for each in variants))
        if reason := seen.get("FailureReason"):
            told["reason"] = reason
        return Running(health="ready" if answers else "not ready", version=known["version"], facts=told)

    def logs(self, root: Path, lines: int) -> Iterator[str]:
        """Yield the last lines that the containers wrote."""
        if known := remembered(root, NAME):
            with aws.spoken(NAME):
                yield from aws.tail(known["region"], f"/aws/sagemaker/Endpoints/{known['endpoint']}", lines)

    def destroy(self, root: Path) -> dict[str, Any] | None:
        """Delete scaling, alarm, endpoint, configurations and models; what is gone already is no fault."""
        known = remembered(root, NAME)
        if known is None:
            return None
        endpoint, region = known["endpoint"], known["region"]
        with aws.spoken(NAME):
            sdk = aws.client("sagemaker", region)
            with aws.absent():
                aws.client("application-autoscaling", region).deregister_scalable_target(**_scaled(endpoint))
            aws.client("cloudwatch", region).delete_alarms(AlarmNames=[f"{endpoint}-errors"])
            _remove_endpoint(sdk, endpoint, self._interval)
            _delete_others(sdk, endpoint, keep=None)
        forget(root, NAME)
        return {"endpoint": endpoint, "region": region}

    def _bring(self, sdk: Any, job: Job, bodies: dict[str, Any], former: str | None) -> None:
        name, endpoint = bodies["model.json"]["ModelName"], bodies["create-endpoint.json"]["EndpointName"]
        asked = given(job, NAME, NAME)
        if former != name:
            _delete_pair(sdk, name)  # what an attempt that was cut short left
            for path in ("model.json", "endpoint-config.json"):
                aws.call(sdk, OPERATIONS[path][1], bodies[path], NAME)
            aws.call(aws.client("cloudwatch", asked.region), "PutMetricAlarm", bodies["alarm.json"], NAME)
            path = "update-endpoint.json" if former else "create-endpoint.json"
            aws.call(sdk, OPERATIONS[path][1], bodies[path], NAME)
        self._settle(sdk, endpoint, name, job.manifest.lineage.version)
        runtime = aws.client("sagemaker-runtime", asked.region)
        with relay(job.manifest.lineage.model, lambda body, stream: invoke(runtime, endpoint, body, stream)) as url:
            job.smoke(url)

    def _settle(self, sdk: Any, endpoint: str, name: str, version: str) -> None:
        def look() -> dict[str, Any] | None:
            seen = _described(sdk, endpoint)
            return (
                seen
                if seen is None or seen["EndpointStatus"] in {"InService", "Failed", "UpdateRollbackFailed"}
                else None
            )

        seen = wait(f"Version {version} on {endpoint}", look, self._interval)
        if seen["EndpointStatus"] != "InService" or seen["EndpointConfigName"] != name:
            why = seen.get("FailureReason", "it was rolled back")
            raise ServingError(f"SageMaker did not bring version {version} into service: {why}")

    def _take_back(self, sdk: Any, job: Job, bodies: dict[str, Any], former: str | None) -> None:
        """Bring back what ran before, or nothing, and delete what was made for the new version."""
        name, endpoint = bodies["model.json"]["ModelName"], bodies["create-endpoint.json"]["EndpointName"]
        if former == name:
            return
        seen = _described(sdk, endpoint)
        if former is None:
            self.destroy(job.config.root)
        elif seen and seen["EndpointStatus"] not in {"InService", "Failed", "UpdateRollbackFailed"}:
            return  # it was interrupted: what is being rolled out must not be taken away from below
        elif seen and seen["EndpointConfigName"] == name:
            sdk.update_endpoint(EndpointName=endpoint, EndpointConfigName=former, RetainAllVariantProperties=True)
            self._settle(sdk, endpoint, former, "before")
        _delete_pair(sdk, name)


def invoke(runtime: Any, endpoint: str, body: bytes, stream: bool) -> Iterator[bytes]:
    """Yield the endpoint's reply to a chat request; raises ServingError if the gateway refused it."""
    from botocore.exceptions import ClientError

    asked = {"EndpointName": endpoint, "Body": body, "ContentType": "application/json"}
    try:
        if stream:
            for event in runtime.invoke_endpoint_with_response_stream(**asked)["Body"]:
                yield event["PayloadPart"]["Bytes"]
        else:
            yield runtime.invoke_endpoint(**asked)["Body"].read()
    except ClientError as fault:
        told = fault.response.get("OriginalMessage") or fault.response["Error"]["Message"]
        raise ServingError(f"{endpoint} did not answer: {told}") from fault


def _bodies(job: Job) -> dict[str, Any]:
    asked, scaling = given(job, NAME, NAME), job.config.serve.scaling
    faults = []
    if scaling.min_replicas < 1:
        faults.append("serve.scaling.min_replicas: SageMaker keeps one instance at least")
    if scaling.schedule or scaling.first_token is not None:
        faults.append("serve.scaling: SageMaker scales on concurrent requests; leave schedule and first_token out here")
    runs = container(job, NAME, platform=True, longest=LONGEST, drain=DRAIN, faults=faults)
    endpoint = service(job)
    model = {
        "ExecutionRoleArn": asked.role,
        "PrimaryContainer": {"Image": runs.image, "Environment": runs.environment},
    }
    variant = {
        "VariantName": VARIANT,
        "InitialInstanceCount": scaling.min_replicas,
        "InstanceType": asked.instance_type,
        "InitialVariantWeight": 1.0,
        "ContainerStartupHealthCheckTimeoutInSeconds": asked.startup,
        "RoutingConfig": {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
    }
    name = endpoint + release(job, [model, variant])
    alarm = f"{endpoint}-errors"
    return {
        "model.json": {"ModelName": name, **model},
        "endpoint-config.json": {
            "EndpointConfigName": name,
            "ProductionVariants": [{**variant, "ModelName": name}],
        },
        "alarm.json": {
            "AlarmName": alarm,
            "Namespace": "AWS/SageMaker",
            "MetricName": "Invocation5XXErrors",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}],
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 1,
            "Threshold": asked.max_errors,
            "ComparisonOperator": "GreaterThanThreshold",
            "TreatMissingData": "notBreaching",
        },
        "create-endpoint.json": {"EndpointName": endpoint, "EndpointConfigName": name},
        "update-endpoint.json": {
            "EndpointName": endpoint,
            "EndpointConfigName": name,
            "RetainAllVariantProperties": True,  # as many instances as scaling has got to
            "DeploymentConfig": {
                "BlueGreenUpdatePolicy": {
                    "TrafficRoutingConfiguration": _traffic(scaling.min_replicas, asked.canary, asked.watch),
                    "TerminationWaitInSeconds": 60,
                    "MaximumExecutionTimeoutInSeconds": 14400,
                },
                "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": alarm}]},
            },
        },
        "scalable-target.json": {
            **_scaled(endpoint),
            "MinCapacity": scaling.min_replicas,
            "MaxCapacity": scaling.max_replicas,
        },
        "scaling-policy.json": {
            **_scaled(endpoint),
            "PolicyName": f"{endpoint}-ongoing",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": float(scaling.ongoing_requests),
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantConcurrentRequestsPerModelHighResolution"
                },
                "ScaleOutCooldown": round(scaling.up_delay),
                "ScaleInCooldown": round(scaling.down_delay),
            },
        },
    }


def _traffic(instances: int, canary: float, watch: int) -> dict[str, Any]:
    """Return how the traffic moves: a canary is an instance or more of several, so one alone moves at once."""
    if instances < 2:
        return {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": watch}
    size = {"Type": "CAPACITY_PERCENT", "Value": max(1, round(canary * 100))}
    return {"Type": "CANARY", "WaitIntervalInSeconds": watch, "CanarySize": size}


def _scaled(endpoint: str) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def _described(sdk: Any, endpoint: str) -> dict[str, Any] | None:
    with aws.absent():
        seen: dict[str, Any] = sdk.describe_endpoint(EndpointName=endpoint)
        return seen
    return None


def _remove_endpoint(sdk: Any, endpoint: str, interval: float) -> None:
    with aws.absent():
        sdk.delete_endpoint(EndpointName=endpoint)
        wait(f"Deleting {endpoint}", lambda: True if _described(sdk, endpoint) is None else None, interval)


def _delete_pair(sdk: Any, name: str) -> None:
    with aws.absent():
        sdk.delete_endpoint_config(EndpointConfigName=name)
    with aws.absent():
        sdk.delete_model(ModelName=name)


def _delete_others(sdk: Any, endpoint: str, keep: str | None) -> None:
    """Delete every configuration of the endpoint, and its model, but the one that is kept."""
    pages = sdk.get_paginator("list_endpoint_configs").paginate(NameContains=f"{endpoint}-v")
    names = [each["EndpointConfigName"] for page in pages for each in page["EndpointConfigs"]]
    for name in names:
        if name.startswith(f"{endpoint}-v") and name != keep:
            _delete_pair(sdk, name)
