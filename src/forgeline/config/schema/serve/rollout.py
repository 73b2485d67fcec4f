"""How a new version is brought in front of callers while the gateway runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from forgeline.config.schema.section import Positive, Seconds, Section

Margin = Annotated[float, Field(ge=0, lt=1)]
CallerShare = Annotated[float, Field(gt=0, le=0.9)]
"""Of the callers; who are left are what a challenger is compared with."""


class Margins(Section):
    """By how much the share of faulty replies may be higher than live; null: the measure does not count.

    A fault is: `error`, the engine gave no whole reply; `guard`, a guard flagged or blocked; `thumb`, it went down;
    `first`, the first token came later than those of what is live mostly do; `pace`, the others did.
    """

    error: Margin | None = 0.0
    guard: Margin | None = 0.01
    thumb: Margin | None = 0.05
    first: Margin | None = 0.05
    pace: Margin | None = 0.05

    @model_validator(mode="after")
    def _count(self) -> Margins:
        if not self.model_dump(exclude_none=True):
            raise ValueError("one measure at least must count, or no challenger would ever be aborted")
        return self


class Rollout(Section):
    """A challenger beside what is live: how many are asked by it, and when it is aborted."""

    share: CallerShare = 0.1  # of the callers, or in shadow mode of the requests
    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.05  # the chance that one that is no worse is ever aborted, at most
    margins: Margins = Margins()
    warm: Seconds = 600.0  # that the former stays loaded after a promotion, for a roll-back at once
    shadows: Positive = 4  # copies that are asked at once, in shadow mode
