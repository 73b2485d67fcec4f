"""serve.yaml: the deployment. A part a module; times are in seconds, sizes in bytes, money in cost.yaml's currency."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from forgeline.config.schema.section import Name, Positive, Seconds, Section
from forgeline.config.schema.serve.access import Access
from forgeline.config.schema.serve.engine import Engine, Transformers
from forgeline.config.schema.serve.guards import Guards
from forgeline.config.schema.serve.ladder import Cache, Ladder
from forgeline.config.schema.serve.limits import Limits
from forgeline.config.schema.serve.people import People
from forgeline.config.schema.serve.rollout import Rollout
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.config.schema.serve.seen import Seen
from forgeline.config.schema.serve.signing import Signing
from forgeline.config.schema.serve.targets import Targets

__all__ = [
    "Access",
    "Cache",
    "Engine",
    "Guards",
    "Ladder",
    "Limits",
    "Parity",
    "People",
    "Rollout",
    "Sampling",
    "Scaling",
    "Seen",
    "Serve",
    "Signing",
    "Targets",
]


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
    """The deployment. `sampling` and `guards` go into the bundle, so that it behaves the same anywhere.

    `engine` is the one that answers; `others` are those that the ladder may turn to, by the names they have there.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8600
    store: str = "sqlite:///.forgeline/gateway.db"
    sampling: Sampling = Sampling()
    guards: Guards = Guards()
    engine: Engine = Transformers()
    others: dict[Name, Engine] = {}
    scaling: Scaling = Scaling()
    access: Access = Access()
    limits: Limits = Limits()
    ladder: Ladder = Ladder()
    cache: Cache = Cache()
    seen: Seen = Seen()
    people: People = People()
    rollout: Rollout = Rollout()
    signing: Signing = Signing()
    drain_timeout: Seconds = 30.0
    targets: Targets = Targets()
    parity: Parity = Parity()

    @model_validator(mode="after")
    def _engine_is_one(self) -> Serve:
        if "engine" in self.others:
            raise ValueError("others: engine is the name of the one that answers; choose another")
        return self
