"""How much."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Money, Positive, Seconds, Section


class PerKey(Section):
    """What one key may ask, unless the gateway's database says otherwise of it; null is without bound."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None  # prompt and completion
    concurrency: Positive | None = None  # requests at once


class Prices(Section):
    """What 1,000 tokens cost a key's budget."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    prompt: Money = 0.0
    completion: Money = 0.0


class Limits(Section):
    """What the gateway takes on: of one request, of one key, and of all at once."""

    max_body: Positive = 1_000_000
    request_timeout: Seconds = 120.0
    concurrency: Positive = 64  # requests that the engines work on at once
    max_queue: Positive = 32  # requests that may wait for their turn
    max_wait: Seconds = 30.0  # and for how long
    per_key: PerKey = PerKey()
    redis: str | None = None  # where several gateways count rates together; ${env:NAME} stands for a variable
    without_redis: Literal["local", "refuse"] = "local"  # count in this gateway alone, or take nothing on
    prices: Prices = Prices()
