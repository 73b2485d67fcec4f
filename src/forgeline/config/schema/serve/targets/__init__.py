"""serve.yaml, targets: where a deployment runs when it is not this machine alone."""

from __future__ import annotations

from forgeline.config.schema.section import Section
from forgeline.config.schema.serve.targets.clouds import (
    AwsLambda,
    Azureml,
    Cloudrun,
    Pushed,
    Sagemaker,
    Skypilot,
    Vertex,
)
from forgeline.config.schema.serve.targets.containers import Compose, Image, Kserve, Kuberay, Kubernetes, Resources
from forgeline.config.schema.serve.targets.edge import Edge
from forgeline.config.schema.serve.targets.systemd import Systemd


class Targets(Section):
    """What each target needs to know beside the rest of serve.yaml."""

    edge: Edge = Edge()
    pushed: Pushed | None = None
    sagemaker: Sagemaker | None = None
    aws_lambda: AwsLambda | None = None
    vertex: Vertex | None = None
    cloudrun: Cloudrun | None = None
    azureml: Azureml | None = None
    skypilot: Skypilot | None = None
    systemd: Systemd = Systemd()
    image: Image = Image()
    resources: Resources = Resources()
    compose: Compose = Compose()
    kubernetes: Kubernetes = Kubernetes()
    kserve: Kserve = Kserve()
    kuberay: Kuberay = Kuberay()
