"""How much."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forgeline.config.schema.section import Positive, Section


class Limits(Section):
    """What the gateway takes on: of one request, and of all at once."""

    max_body: Positive = 1_000_000
    request_timeout: Annotated[float, Field(gt=0)] = 120.0
    max_queue: Positive = 32
