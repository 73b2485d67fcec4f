"""What turns messages into tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Positive, Seconds, Section

Reference = Annotated[str, Field(pattern=r"^\$\{env:[A-Za-z_][A-Za-z0-9_]*\}$")]
"""Where a secret stands; never the secret itself."""

Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
OpenvinoWeights = Literal["fp32", "int8", "int4"]


class Timeouts(Section):
    """How long an engine spoken to over HTTP may take: to connect, to its first token, from one to the next."""

    connect: Seconds = 2.0
    first: Seconds = 60.0
    between: Seconds = 20.0


class Supervision(Section):
    """When an engine's process is started again.

    It may take `start_timeout` to be ready, for which `forgeline deploy` waits too, and later show no sign of life for
    `hang_timeout`. One that ended more than `restarts` times within `window` seconds is given up.
    """

    start_timeout: Seconds = 600.0
    hang_timeout: Seconds = 60.0
    restarts: Annotated[int, Field(ge=0)] = 5
    window: Seconds = 600.0


class Transformers(Section):
    """The bundle's model in this process, or in one of its own, which may die without the gateway.

    `adapters` are more of them on the bundle's base, served under these names: bundles, or adapters' folders.
    """

    name: Literal["transformers"] = "transformers"
    process: bool = False
    adapters: dict[str, str] = {}
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()


class Remote(Section):
    """Any server of the OpenAI chat API; `url` is what its clients call the base URL, and mostly ends in `/v1`.

    `model` is what the server calls the model; the first that it lists, if not given. `models` are the names that a
    caller may ask for beside the deployment's own, and what the server calls them.
    """

    name: Literal["url"]
    url: Url
    key: Reference | None = None
    model: str | None = None
    models: dict[str, str] = {}
    logprobs: bool = False
    timeouts: Timeouts = Timeouts()


class Openvino(Section):
    """The bundle's model in `weights` of 8 or 4 bits under OpenVINO: on processors, many requests at once.

    `environment` is the exporter's, which `forgeline deploy` needs once for each bundle; the engine itself runs in the
    main one. In the gateway's process it would stop everything else there at each token: OpenVINO's step keeps the
    interpreter to itself. What `policy.admission` asks of it must have passed.
    """

    name: Literal["openvino"]
    weights: OpenvinoWeights = "int8"
    process: bool = True
    environment: str = ".forgeline/engines/openvino-export"
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()


class Vllm(Section):
    """`vllm serve` from an environment of its own; `memory` is the share of a GPU that it takes, or of this machine.

    `context` bounds prompt and reply, in tokens; the model's own limit, if not given.
    """

    name: Literal["vllm"]
    environment: str = ".forgeline/engines/vllm"
    context: Positive | None = None
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.9
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()


class Ray(Section):
    """Replicas of the embedded engine under Ray Serve, each with so many processors and GPUs.

    How many there are says `serve.scaling`. `address` is of a running cluster, whose HTTP proxy listens at `proxy`;
    a cluster of this machine alone is started, if it is not given.
    """

    name: Literal["ray"]
    replica: Transformers = Transformers()
    cpus: Annotated[float, Field(ge=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    address: str | None = None
    proxy: Annotated[str, Field(pattern=r"^[^\s:/]+:\d+$")] = "127.0.0.1:8000"
    timeouts: Timeouts = Timeouts()
    supervision: Supervision = Supervision()


Engine = Annotated[Transformers | Remote | Openvino | Vllm | Ray, Field(discriminator="name")]
