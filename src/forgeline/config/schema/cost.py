"""cost.yaml: what a run is charged for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.section import Money, Section


class Machine(Section):
    """What estimates need of a machine: memory for training, and its rate of large matrix products (10^12 FLOP/s).

    `utilisation` is the share of that rate that a training run reaches.
    """

    device: Literal["cpu", "cuda"] = "cuda"
    memory_gb: Annotated[float, Field(gt=0)]
    tflops: Annotated[float, Field(gt=0)]
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.5


class Spot(Section):
    """A machine's price while nobody pays more, and how often it is taken away, in times an hour."""

    price: Money
    interruptions: Annotated[float, Field(ge=0)]


class Cost(Section):
    """Prices by the hour of the machines that runs may be on, the one in use, and where its power comes from.

    `spot` are those that can be had for less, and taken away. `machines` describes those that `forgeline models`
    estimates for without being on them. `country` is an ISO 3166 three-letter code: it decides the carbon of a
    kilowatt-hour.
    """

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    machine: str
    prices: dict[str, Money]
    spot: dict[str, Spot] = {}
    machines: dict[str, Machine] = {}
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "GBR"

    @model_validator(mode="after")
    def _machine_has_a_price(self) -> Cost:
        if self.machine not in self.prices:
            raise ValueError(f"prices has no {self.machine}: it has {', '.join(self.prices)}")
        for name, known in (("machines", self.machines), ("spot", self.spot)):
            if unpriced := known.keys() - self.prices.keys():
                raise ValueError(f"{name} without a price: {', '.join(sorted(unpriced))}")
        return self
