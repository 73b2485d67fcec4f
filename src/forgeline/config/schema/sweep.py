"""sweep.yaml: the hyper-parameters that a search tries."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from forgeline.config.schema.section import Positive, Section


class Range(Section):
    """Values from low to high, on a logarithmic scale with `log`; whole numbers where the key takes no others."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on a logarithmic scale")
        return self


# Brackets mark a branch of a union: the path in a message leaves them out.
Choice = Annotated[
    Annotated[Range, Tag("[range]")] | Annotated[list[Any], Tag("[values]"), Field(min_length=1)],
    Discriminator(lambda given: "[values]" if isinstance(given, list) else "[range]"),
]


class Sweep(Section):
    """A search for the train settings with the lowest validation loss.

    `space` holds, by dotted key as in --set, the values to try: a range, or a list.
    """

    trials: Positive = 12
    seed: int = 17
    space: Annotated[dict[str, Choice], Field(min_length=1)]
