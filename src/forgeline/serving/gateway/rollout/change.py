"""One roll-out, and what it leaves behind."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from forgeline.serving.bundle import Manifest
from forgeline.serving.gateway.arm import Arm
from forgeline.serving.gateway.exchange import Served, fresh
from forgeline.serving.gateway.rollout.trial import Mode, Trial
from forgeline.serving.order import Order

State = Literal["loading", "running", "ready", "aborted", "promoted", "rolled back"]
OPEN = ("loading", "running", "ready")


@dataclass(frozen=True)
class Question:
    """What a challenger is asked before any caller is answered by it, and what it must say, greedily."""

    messages: list[dict[str, str]]
    reply: str
    max_tokens: int


@dataclass(eq=False)
class Change:
    """One roll-out, or a roll-back to what must be loaded first, and what has become of it."""

    order: Order
    manifest: Manifest
    mode: Mode | Literal["roll-back"]
    share: float
    by: str
    reason: str
    id: str = field(default_factory=lambda: fresh(64))
    state: State = "loading"
    began: float = field(default_factory=time.time)
    ended: float | None = None
    why: str | None = None
    arm: Arm | None = None
    trial: Trial | None = None
    loading: asyncio.Task[None] | None = None

    @property
    def version(self) -> str:
        """Of the challenger."""
        return self.manifest.lineage.version

    def shown(self) -> dict[str, Any]:
        """Return it as JSON values."""
        names = ("id", "state", "mode", "share", "by", "reason", "began", "ended", "why")
        shown = {name: getattr(self, name) for name in names}
        shown["challenger"] = named(Served.of(self.manifest), self.order.serve.engine.name)
        return shown | (self.trial.shown() if self.trial else {})


@dataclass(eq=False)
class Former:
    """What was live before, and still is loaded, until `until` in UTC epoch seconds."""

    arm: Arm
    order: Order
    until: float
    cooling: asyncio.Task[None] | None = None


def named(served: Served, engine: str) -> dict[str, Any]:
    """Return a bundle, and which engine runs it, as JSON values."""
    return {"version": served.version, "run": served.run, "bundle": served.bundle, "engine": engine}
