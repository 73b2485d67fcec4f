"""Where people look: feedback, reviews, webhooks, batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Section, Share


class Review(Section):
    """Which replies a person must look at, and whether the caller waits for that."""

    when: Literal["never", "always", "flagged"] = "flagged"
    sample: Share = 0.05  # of the other replies that is queued too
    wait: bool = False  # the caller gets a ticket, and the reply once it is approved
    claim: Annotated[float, Field(gt=0)] = 900.0  # seconds that a reviewer has for what they claimed


class People(Section):
    """What people may say of replies, which replies must wait for one, and who is told."""

    review: Review = Review()
