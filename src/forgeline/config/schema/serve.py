"""serve.yaml: the deployment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forgeline.config.schema.section import Positive, Section


class Sampling(Section):
    """Generation settings used when a request names none; temperature 0 is greedy."""

    max_tokens: Positive = 96
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Parity(Section):
    """How closely a bundle must repeat the model that was evaluated."""

    prompts: Positive = 4
    tolerance: Annotated[float, Field(ge=0)] = 1e-3


class Serve(Section):
    """The local target and the gateway's limits. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8600
    sampling: Sampling = Sampling()
    max_queue: Positive = 32
    max_body: Positive = 1_000_000
    request_timeout: Annotated[float, Field(gt=0)] = 120.0
    drain_timeout: Annotated[float, Field(gt=0)] = 30.0
    parity: Parity = Parity()
