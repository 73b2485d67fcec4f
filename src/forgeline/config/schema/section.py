"""What all sections share: strictness, bounds, and what can be measured of a candidate."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from forgeline.lineage import value_digest

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Days = Annotated[float, Field(gt=0)]
Money = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


class Section(BaseModel):
    """A mapping that refuses keys it does not know and never changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def digest(self) -> str:
        """Return the sha256 of the section's values, defaults included."""
        return value_digest(self.model_dump(mode="json"))


# What is measured of a candidate: gates and success metrics are bounds on it. config/load.py knows which there are.
Measure = Annotated[str, Field(pattern=r"^[a-z]\w*$")]


class Bound(Section):
    """The values that a piece of evidence may have, both ends included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_bound(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("min, max or both must be given")
        return self
