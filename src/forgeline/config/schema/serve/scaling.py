"""How many replicas there are: one policy, which every target is told in its own words."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from forgeline.config.schema.section import Positive, Seconds, Section

NUMBERS = r"(\*|\d+(-\d+)?)(/\d+)?"
FIELD = rf"{NUMBERS}(,{NUMBERS})*"
Cron = Annotated[str, Field(pattern=rf"^{FIELD}( {FIELD}){{4}}$")]
"""Minute, hour, day of the month, month, day of the week (0 is Sunday); numbers, ranges, lists and steps."""

Delay = Annotated[float, Field(ge=0, le=3600)]  # what an autoscaler of Kubernetes takes
Url = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]


class Window(Section):
    """From each `start` to the next `end` there are at least so many replicas."""

    start: Cron
    end: Cron
    replicas: Positive


class Scaling(Section):
    """As many replicas as the load asks for, within bounds, and not before it has lasted.

    `ongoing_requests` waiting or being answered is what one replica is meant to have, on the mean of `window` seconds;
    `first_token`, if given, what the 95th percentile of the time to the first token is meant to be. A wish for more
    must last for `up_delay` seconds, one for fewer for `down_delay`: this keeps the number from swinging. With
    `min_replicas` 0 the last one goes after `idle` seconds without a request.
    """

    min_replicas: Annotated[int, Field(ge=0)] = 2
    max_replicas: Positive = 4
    ongoing_requests: Positive = 8
    first_token: Seconds | None = None
    window: Annotated[float, Field(ge=1)] = 30.0
    up_delay: Delay = 10.0
    down_delay: Delay = 300.0
    idle: Seconds = 600.0
    request_seconds: Seconds = 2.0
    schedule: tuple[Window, ...] = ()
    timezone: str = "UTC"
    prometheus: Url = "http://prometheus:9090"

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, LookupError, OSError) as fault:
            raise ValueError(f"{name} is no time zone such as Europe/Berlin") from fault
        return name

    @model_validator(mode="after")
    def _is_a_range(self) -> Scaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, fewer than min_replicas, {self.min_replicas}")
        if over := [window.replicas for window in self.schedule if window.replicas > self.max_replicas]:
            raise ValueError(f"schedule asks for {max(over)} replicas, more than max_replicas, {self.max_replicas}")
        return self
