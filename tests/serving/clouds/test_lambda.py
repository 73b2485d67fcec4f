"""Lambda in moto, which gives a function one address: those of its aliases are kept here, as AWS documents them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from conftest import Smoke
from fronts import front

from forgeline.errors import ServingError
from forgeline.serving.targets import remembered
from forgeline.serving.targets.clouds.aws_lambda import AwsLambda

REGION = "eu-central-1"
STORE = "postgresql+psycopg://${env:DB_USER}:${env:DB_PASSWORD}@db.internal/gateway"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with front() as url:
        yield url


class Cloud:
    def __init__(self, address: str) -> None:
        self.sdk = boto3.client("lambda", region_name=REGION)
        self.address = address
        self.doors: dict[str, str] = {}  # address by alias
        self.warm: dict[str, Any] = {}
        self.opened: list[dict[str, Any]] = []

    def url(self, params: dict[str, Any], model: Any, **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse

        # `params` is what botocore would send: the function in the path, the alias in the query.
        alias = params["query_string"]["Qualifier"]
        status = 201 if params["method"] == "POST" else 200
        if params["method"] == "POST":
            self.opened.append(json.loads(params["body"]))
            self.doors[alias] = f"{self.address}/{alias}/"
        elif alias not in self.doors:
            told = {"Error": {"Code": "ResourceNotFoundException", "Message": "The resource does not exist."}}
            return AWSResponse("", 404, {}, None), {**told, "ResponseMetadata": {"HTTPStatusCode": 404}}
        elif params["method"] == "DELETE":
            del self.doors[alias]
            return AWSResponse("", 204, {}, None), {}
        return AWSResponse("", status, {}, None), {"FunctionUrl": self.doors[alias]}

    def provision(self, params: dict[str, Any], **_: Any) -> Any:
        from botocore.awsrequest import AWSResponse

        self.warm[params["query_string"]["Qualifier"]] = json.loads(params["body"])
        return AWSResponse("", 202, {}, None), {}

    def versions(self, function: str) -> list[str]:
        listed = self.sdk.list_versions_by_function(FunctionName=function)["Versions"]
        return [each["Version"] for each in listed if each["Version"] != "$LATEST"]

    def live(self, function: str) -> str:
        return str(self.sdk.get_alias(FunctionName=function, Name="live")["FunctionVersion"])


@pytest.fixture
def cloud(aws: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setenv("DB_USER", "gateway")
    monkeypatch.setenv("DB_PASSWORD", "s3cr3t-word")
    made = Cloud(address)
    hooks = {f"{verb}FunctionUrlConfig": made.url for verb in ("Create", "Get", "Delete")}
    hooks["PutProvisionedConcurrencyConfig"] = made.provision
    for operation, hook in hooks.items():
        aws.events.register(f"before-call.lambda.{operation}", hook, unique_id=operation)
    yield made
    for operation in hooks:
        aws.events.unregister(f"before-call.lambda.{operation}", unique_id=operation)


@pytest.fixture
def asked(cloud: Cloud) -> dict[str, Any]:
    trust = {"Version": "2012-10-17", "Statement": []}
    role = boto3.client("iam").create_role(RoleName="serving", AssumeRolePolicyDocument=json.dumps(trust))
    return {"aws_lambda": {"region": REGION, "role": role["Role"]["Arn"]}}


def deploy(job: Any) -> dict[str, Any]:
    target = AwsLambda(interval=0)
    return target.deploy(job, target.plan(job))


def test_a_version_comes_changes_and_goes(cloud: Cloud, asked: dict[str, Any], make: Any, address: str) -> None:
    target = AwsLambda(interval=0)
    first = make("3", targets=asked, store=STORE)
    root = first.config.root
    made = deploy(first)
    function = made["function"]
    assert first.smoke.asked == [f"{address}/trial"]
    assert (made["url"], cloud.live(function), cloud.doors) == (f"{address}/live", "1", {"live": f"{address}/live/"})
    assert cloud.warm == {"live": {"ProvisionedConcurrentExecutions": 2}}
    assert {each["AuthType"] for each in cloud.opened} == {"NONE"}
    held = cloud.sdk.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    assert held["DB_PASSWORD"] == "s3cr3t-word"  # noqa: S105
    assert "${env:DB_PASSWORD}" in held["FORGELINE_SETTINGS"]
    policy = cloud.sdk.get_policy(FunctionName=function)["Policy"]
    assert re.findall(r"lambda:\w+", policy).count("lambda:InvokeFunctionUrl") >= 1

    second = make("4", targets={**asked, "pushed": "registry.example.org/forgeline@sha256:" + "b" * 64}, store=STORE)
    deploy(second)
    assert cloud.live(function) == "2"
    running = target.status(root)
    assert running is not None
    assert (running.health, running.version, running.url) == ("ready", "4", f"{address}/live")

    assert target.destroy(root) == {"function": function, "region": REGION}
    assert not cloud.sdk.list_functions()["Functions"]
    assert not cloud.doors
    assert target.destroy(root) is None


def test_no_secret_is_printed_or_kept(cloud: Cloud, asked: dict[str, Any], make: Any) -> None:
    job = make("3", targets=asked, store=STORE)
    plan = AwsLambda(interval=0).plan(job)
    made = AwsLambda(interval=0).deploy(job, plan)
    texts = [*plan.files.values(), json.dumps(made), json.dumps(remembered(job.config.root, "lambda"))]
    assert not [text for text in texts if "s3cr3t-word" in text]


def test_the_old_version_answers_when_the_new_one_does_not(cloud: Cloud, asked: dict[str, Any], make: Any) -> None:
    made = deploy(make("3", targets=asked, store=STORE))
    pushed = {"pushed": "registry.example.org/forgeline@sha256:" + "b" * 64}
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(make("4", smoke=Smoke(passes=False), targets={**asked, **pushed}, store=STORE))
    assert cloud.live(made["function"]) == "1"
    assert cloud.versions(made["function"]) == ["1"]
    assert [*cloud.doors] == ["live"]


def test_a_first_version_that_fails_leaves_nothing(cloud: Cloud, asked: dict[str, Any], make: Any) -> None:
    job = make("3", smoke=Smoke(passes=False), targets=asked, store=STORE)
    with pytest.raises(ServingError, match=r"smoke test failed"):
        deploy(job)
    assert not cloud.sdk.list_functions()["Functions"]
    assert remembered(job.config.root, "lambda") is None


def test_a_secret_that_is_not_there_is_told_before_anything_runs(
    cloud: Cloud, asked: dict[str, Any], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(ServingError, match=r"hands a secret on that is not there: .*DB_PASSWORD is not set"):
        deploy(make("3", targets=asked, store=STORE))
    assert not cloud.sdk.list_functions()["Functions"]


def test_a_broken_plan_is_refused_with_its_path(make: Any) -> None:
    role = "arn:aws:iam::123456789012:role/serving"
    with pytest.raises(ServingError, match=r"function.json: Architectures\[0\]: 'riscv' is none of the 2"):
        AwsLambda().plan(
            make(targets={"aws_lambda": {"region": REGION, "role": role, "architecture": "riscv"}}, store=STORE)
        )
    with pytest.raises(ServingError, match=r"serve.store: keys in a container's own file"):
        AwsLambda().plan(make(targets={"aws_lambda": {"region": REGION, "role": role}}))
    with pytest.raises(ServingError, match=r"Environment: .* bytes are more than the 4096 of Lambda"):
        ladder = {"ticket_text": "{ticket} " * 500}
        AwsLambda().plan(make(targets={"aws_lambda": {"region": REGION, "role": role}}, store=STORE, ladder=ladder))
    with pytest.raises(ServingError, match=r"serve.targets.aws_lambda: is not given; it needs region, role"):
        AwsLambda().plan(make())
