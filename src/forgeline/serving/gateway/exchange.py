"""One request to the model on its way through the gateway: who asks, what was found, what was answered."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from forgeline.config.schema.serve.access import Role
from forgeline.serving.engines import GenerationRequest, Usage

if TYPE_CHECKING:
    from starlette.requests import Request

    from forgeline.serving.bundle import Manifest
    from forgeline.serving.gateway.arm import Arm
    from forgeline.serving.gateway.protocol import ChatRequest

CHANCE = random.Random()  # of its own, so that nobody seeds it


@dataclass(frozen=True)
class Caller:
    """Who asks: the key or the token's subject, on whose behalf, as what, and for which models only, if any."""

    id: str
    tenant: str
    roles: frozenset[Role]
    models: frozenset[str] = frozenset()


def caller_of(http: Request) -> Caller:
    """Return who asks, as the gate told."""
    caller: Caller = http.state.caller
    return caller


@dataclass(frozen=True)
class Served:
    """The bundle that answers, as every answer and every row names it; `bundle` is its digest."""

    model: str
    version: str
    run: str
    bundle: str

    @classmethod
    def of(cls, manifest: Manifest) -> Served:
        """Return what a bundle's manifest says of it."""
        origin = manifest.lineage
        return cls(origin.model, origin.version, origin.mlflow_run, manifest.digest)

    @cached_property
    def headers(self) -> dict[str, str]:
        """What responses say of it."""
        named = {"version": self.version, "run": self.run, "bundle": self.bundle[:16]}
        return {f"x-forgeline-{name}": value for name, value in named.items()}


NOBODY = Served("", "", "", "")


@dataclass(frozen=True)
class Verdict:
    """What one guard found, and what was done about it; `detail` never holds the text itself."""

    guard: str
    side: Literal["in", "out"]
    action: Literal["pass", "flag", "mask", "block"]
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Asking:
    """How an engine was asked: how often it failed and was asked again, and the seconds to its first and last piece.

    Whoever heard what was asked for another exchange has no times.
    """

    began: float = field(default_factory=time.perf_counter)
    faults: int = 0
    first: float | None = None
    last: float | None = None

    def age(self) -> float:
        """Return the seconds since it was asked."""
        return time.perf_counter() - self.began


@dataclass
class Exchange:
    """One request and what has become of it so far; times are seconds since it came.

    `request` is what the engine is asked; its messages are `masked` once the guards have passed them. `rung` names what
    answered: an engine, `cache`, `semantic`, `stale`, `template` or `queue`. `reply` is what was answered, as masked as
    the request; it is `held` if the caller gets a ticket in its place. `facts` are what was looked up for it. `headers`
    tell the caller's rates; `traceparent` is the caller's own.

    `arm` answers, and `served` is its bundle; `asked` is the request as it came. A challenger `failed` where what is
    live had to answer in its place. `asking` is how the last engine was asked, if one was.
    """

    id: str
    caller: Caller
    request: GenerationRequest
    stream: bool = False
    asked: ChatRequest | None = None
    arm: Arm | None = None
    served: Served = NOBODY
    failed: bool = False
    traceparent: str | None = None
    began: float = field(default_factory=time.perf_counter)
    rung: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    reply: str = ""
    facts: tuple[str, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    first_token: float | None = None
    asking: Asking | None = None
    ticket: str | None = None
    held: bool = False
    masked: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def age(self) -> float:
        """Return the seconds since the request came."""
        return time.perf_counter() - self.began

    def begin_again(self, arm: Arm) -> None:
        """Have another arm answer, from the request as it came; nothing is left of what the former found."""
        assert self.asked is not None  # noqa: S101
        self.arm, self.served, self.request = arm, arm.served, arm.asked(self.asked)
        self.verdicts, self.facts, self.reply, self.rung = [], (), "", ""
        self.usage, self.asking, self.masked = None, None, False


def fresh(bits: int = 128) -> str:
    """Return the hex digits of an id that nobody has; it is no secret, so the system's randomness is not asked for."""
    return f"{CHANCE.getrandbits(bits) or 1:0{bits // 4}x}"
