"""SageMaker in moto, which has no UpdateEndpoint: that one is told here what AWS documents of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from conftest import Smoke

from forgeline.errors import ServingError
from forgeline.serving.targets import remembered
from forgeline.serving.targets.clouds.sagemaker import Sagemaker

REGION = "eu-central-1"
ASKED = {"region": REGION, "role": "arn:aws:iam::123456789012:role/serving", "instance_type": "ml.g4dn.xlarge"}


class Cloud:
    """AWS as moto has it; `refuses` are configurations that do not get into service."""

    def __init__(self) -> None:
        self.sdk = boto3.client("sagemaker", region_name=REGION)
        self.updates: list[dict[str, Any]] = []
        self.failing = False

    def update(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        from botocore.awsrequest import AWSResponse
        from moto.sagemaker.models import sagemaker_backends

        asked = json.loads(params["body"])  # which botocore has found valid
        self.updates.append(asked)
        endpoint = sagemaker_backends["123456789012"][REGION].endpoints[asked["EndpointName"]]
        if self.failing:
            endpoint.failure_reason = "The alarm forgeline-errors went off."
        else:
            endpoint.endpoint_config_name = asked["EndpointConfigName"]
        return AWSResponse("", 200, {}, None), {"EndpointArn": endpoint.arn}

    def names(self) -> tuple[list[str], list[str], list[str]]:
        return (
            [each["EndpointName"] for each in self.sdk.list_endpoints()["Endpoints"]],
            [each["EndpointConfigName"] for each in self.sdk.list_endpoint_configs()["EndpointConfigs"]],
            [each["ModelName"] for each in self.sdk.list_models()["Models"]],
        )

    def configuration(self, endpoint: str) -> str:
        return str(self.sdk.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"])


@pytest.fixture
def cloud(aws: Any) -> Iterator[Cloud]:
    made = Cloud()
    aws.events.register("before-call.sagemaker.UpdateEndpoint", made.update, unique_id="update")
    yield made
    aws.events.unregister("before-call.sagemaker.UpdateEndpoint", unique_id="update")


@pytest.fixture
def target() -> Sagemaker:
    return Sagemaker(interval=0)


def deploy(target: Sagemaker, job: Any) -> dict[str, Any]:
    return target.deploy(job, target.plan(job))


def test_a_version_comes_changes_and_goes(cloud: Cloud, target: Sagemaker, make: Any) -> None:
    first = make("3", targets={"sagemaker": ASKED})
    root = first.config.root
    assert target.status(root) is None
    made = deploy(target, first)
    assert first.smoke.asked
    endpoint, config = made["endpoint"], made["config"]
    assert cloud.names() == ([endpoint], [config], [config])
    running = target.status(root)
    assert running is not None
    assert (running.health, running.version, running.facts["configuration"]) == ("ready", "3", config)
    again = make("3", targets={"sagemaker": ASKED})
    assert deploy(target, again)["config"] == config
    assert not cloud.updates

    second = deploy(target, make("4", targets={"sagemaker": ASKED}))
    assert second["config"] != config
    assert cloud.names() == ([endpoint], [second["config"]], [second["config"]])  # what the first was made of is gone
    update = cloud.updates[-1]["DeploymentConfig"]
    assert update["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": f"{endpoint}-errors"}]}
    assert update["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "CANARY"
    scaling = boto3.client("application-autoscaling", region_name=REGION)
    (scaled,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (scaled["MinCapacity"], scaled["MaxCapacity"]) == (2, 4)
    logs = boto3.client("logs", region_name=REGION)
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="all/1")
    now = round(time.time() * 1000)
    events = [{"timestamp": now + number, "message": f"line {number}"} for number in range(5)]
    logs.put_log_events(logGroupName=group, logStreamName="all/1", logEvents=events)
    assert list(target.logs(root, 2)) == ["line 3\n", "line 4\n"]

    assert target.destroy(root) == {"endpoint": endpoint, "region": REGION}
    assert cloud.names() == ([], [], [])
    assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert not boto3.client("cloudwatch", region_name=REGION).describe_alarms()["MetricAlarms"]
    assert target.destroy(root) is None


@pytest.mark.parametrize("fault", ["alarm", "smoke"])
def test_the_old_version_answers_when_the_new_one_does_not(
    cloud: Cloud, target: Sagemaker, make: Any, fault: str
) -> None:
    first = make("3", targets={"sagemaker": ASKED})
    made = deploy(target, first)
    cloud.failing = fault == "alarm"
    said = "into service: The alarm forgeline-errors went off" if fault == "alarm" else "smoke test failed"
    with pytest.raises(ServingError, match=said):
        deploy(target, make("4", smoke=Smoke(passes=fault == "alarm"), targets={"sagemaker": ASKED}))
    assert cloud.configuration(made["endpoint"]) == made["config"]
    assert cloud.names() == ([made["endpoint"]], [made["config"]], [made["config"]])
    running = target.status(first.config.root)
    assert running is not None
    assert (running.version, running.health) == ("3", "ready")


def test_a_first_version_that_fails_leaves_nothing(cloud: Cloud, target: Sagemaker, make: Any) -> None:
    job = make("3", smoke=Smoke(passes=False), targets={"sagemaker": ASKED})
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(target, job)
    assert cloud.names() == ([], [], [])
    assert remembered(job.config.root, "sagemaker") is None


def test_an_attempt_that_was_killed_is_gone_on_with(cloud: Cloud, target: Sagemaker, make: Any) -> None:
    job = make("3", targets={"sagemaker": ASKED})
    plan = target.plan(job)
    cloud.sdk.create_model(**json.loads(plan.files["model.json"]))  # and then the machine went down
    made = target.deploy(job, plan)
    assert cloud.names() == ([made["endpoint"]], [made["config"]], [made["config"]])


def test_a_region_without_the_instance_type(cloud: Cloud, target: Sagemaker, make: Any) -> None:
    first = make("3", targets={"sagemaker": ASKED})
    made = deploy(target, first)
    elsewhere = make("4", targets={"sagemaker": {**ASKED, "instance_type": "ml.p4d.24xlarge", "region": "eu-west-3"}})
    with pytest.raises(ServingError, match=r"eu-west-3 has no ml\.p4d\.24xlarge.*another region\. Nothing was made"):
        deploy(target, elsewhere)
    assert cloud.names()[0] == [made["endpoint"]]
    with pytest.raises(ServingError, match=r"runs with region eu-central-1, .* says us-east-1: take it down first"):
        deploy(target, make("4", targets={"sagemaker": {**ASKED, "region": "us-east-1"}}))


def test_no_credentials_is_one_sentence(target: Sagemaker, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    boto3.setup_default_session()
    with pytest.raises(ServingError, match=r"no AWS credentials were found: run `aws configure sso`"):
        deploy(target, make("3", targets={"sagemaker": ASKED}))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"instance_type": "ml.g5.enormous"},
            r"endpoint-config.json: ProductionVariants\[0\].InstanceType: 'ml.g5.enormous'",
        ),
        ({"role": "serving"}, r"model.json: .*ExecutionRoleArn"),
        ({"pushed": None}, r"serve.targets.pushed: give the pushed image by its digest"),
    ],
)
def test_a_broken_plan_is_refused_with_its_path(
    target: Sagemaker, make: Any, changed: dict[str, Any], told: str
) -> None:
    pushed = {"pushed": None} if "pushed" in changed else {}
    asked = {**ASKED, **{key: value for key, value in changed.items() if key != "pushed"}}
    with pytest.raises(ServingError, match=told):
        target.plan(make("3", targets={"sagemaker": asked, **pushed}))
