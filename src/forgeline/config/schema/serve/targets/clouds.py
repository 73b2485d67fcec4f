"""What the managed targets need to know; none of it is a secret. Sizes are in GiB unless they are said to be else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forgeline.config.schema.section import Positive, Seconds, Section

Text = Annotated[str, Field(min_length=1)]
Pushed = Annotated[str, Field(pattern=r"^[a-z0-9][\w./:-]*@sha256:[0-9a-f]{64}$")]
"""The bundle's image where the vendor finds it, by its digest: what was checked is what runs."""


class Sagemaker(Section):
    """A real-time endpoint of SageMaker AI.

    `role` is what the containers run as; they may take `startup` seconds to be ready. A new version first gets the
    share `canary` of the traffic; after `watch` seconds without an alarm it gets all of it. An alarm is more than
    `max_errors` answers of 5xx a minute.
    """

    region: Text
    role: Text
    instance_type: Text
    startup: Annotated[int, Field(ge=60, le=3600)] = 900
    canary: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    watch: Annotated[int, Field(ge=60, le=3600)] = 300
    max_errors: Positive = 5


class AwsLambda(Section):
    """A function from a container image, with an address of its own; `memory` in MB also buys processors."""

    region: Text
    role: Text
    memory: Annotated[int, Field(ge=128, le=10240)] = 10240
    disk: Annotated[int, Field(ge=512, le=10240)] = 4096  # MB of /tmp
    architecture: Text = "x86_64"


class Vertex(Section):
    """An endpoint of Vertex AI; `accelerator` is such as NVIDIA_L4. With `spot` it may be taken away at any time."""

    project: Text
    region: Text
    machine_type: Text
    accelerator: Text | None = None
    accelerators: Positive = 1
    spot: bool = False
    service_account: Text | None = None
    utilisation: Annotated[int, Field(ge=1, le=100)] = 60  # percent of a processor or GPU that scaling aims at


class Cloudrun(Section):
    """A service of Cloud Run; `secrets` names, for each variable that the settings refer to, its secret there."""

    project: Text
    region: Text
    service_account: Text
    cpu: Positive = 4
    memory: Positive = 16
    gpu: Text | None = None  # such as nvidia-l4
    secrets: dict[str, Text] = {}


class Azureml(Section):
    """A managed online endpoint of an Azure ML workspace."""

    subscription: Text
    resource_group: Text
    workspace: Text
    location: Text
    instance_type: Text
    utilisation: Annotated[int, Field(ge=1, le=100)] = 70  # percent of the processors above which there are more


class Skypilot(Section):
    """A service of SkyPilot on whatever has the machine: `infra` is such as aws/us-east-1, None is any cloud.

    With `spot` the replicas may be taken away; `fallback` on-demand ones are kept besides. `environment` holds `sky`.
    """

    infra: Text | None = None
    accelerators: Text | None = None  # such as L4:1
    cpus: Text = "4+"
    memory: Text = "16+"
    spot: bool = True
    fallback: Annotated[int, Field(ge=0)] = 1
    startup: Seconds = 1200.0
    environment: str = ".forgeline/engines/skypilot"
