"""serve.yaml, targets: what containers, clusters and their neighbours are told."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from forgeline.config.schema.section import Positive, Section

Reference = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?$")]
"""An image, by a tag or, better, by its digest."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""What Kubernetes takes for a name."""

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""Bytes, as Kubernetes writes them."""

Host = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Image(Section):
    """The image of a bundle: `serving` has the code (deploy/serving.Dockerfile), the bundle and its base come on top.

    It is pushed to `repository`, where clusters find it, under the first digits of the bundle's digest.
    """

    repository: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/:-]*$")] = "registry.example.org/forgeline"
    serving: Reference = "forgeline/serving:0.1.0"
    vllm: Reference = "vllm/vllm-openai:v0.32.0"  # the engine's own container, if the engine is vllm


class Resources(Section):
    """What one replica is given; `gpus` go to the container that the engine runs in."""

    cpus: Annotated[float, Field(gt=0)] = 2.0
    memory: Quantity = "4Gi"
    gpus: Annotated[int, Field(ge=0)] = 0


class Compose(Section):
    """The services around the gateway, and the ports of this machine's loopback where people find two of them."""

    postgres: Reference = "postgres:17.6"
    redis: Reference = "redis:8.2.1"
    prometheus: Reference = "prom/prometheus:v3.5.0"
    grafana: Reference = "grafana/grafana:12.1.1"
    prometheus_port: Port = 9090
    grafana_port: Port = 3000


class Kubernetes(Section):
    """The cluster: its context (kubectl's own, if not given), the namespace, and who may come in.

    `secret` is the name of a Secret with a key for each variable that serve.yaml names as `${env:NAME}`. `callers` and
    `watchers` are the namespaces whose pods may ask, and scrape. `host` makes an Ingress, whose certificate is in
    `certificate`, a Secret of type kubernetes.io/tls; with `access.tls` the pods themselves use it. `pod` is added to
    the pods' spec, such as nodeSelector and tolerations.
    """

    context: str | None = None
    namespace: Label = "forgeline"
    secret: Label = "forgeline"  # noqa: S105  its name
    certificate: Label | None = None
    host: Host | None = None
    ingress_class: Label | None = None
    callers: tuple[Label, ...] = ("ingress-nginx",)
    watchers: tuple[Label, ...] = ("monitoring",)
    pull_secret: Label | None = None
    pod: dict[str, Any] = {}


class Kserve(Section):
    """KServe: the percentage of traffic that a new version gets before it is promoted; null is all of it."""

    canary_percent: Annotated[int, Field(ge=0, le=100)] | None = None


class Kuberay(Section):
    """KubeRay: the Ray cluster behind the gateway; its workers come and go between these numbers."""

    min_workers: Annotated[int, Field(ge=0)] = 1
    max_workers: Positive = 4
