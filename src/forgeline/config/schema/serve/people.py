"""Where people look: feedback, reviews, webhooks, batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, IPvAnyNetwork

from forgeline.config.schema.section import Days, Positive, Seconds, Section, Share


class Review(Section):
    """Which replies a person must look at, and whether the caller waits for that."""

    when: Literal["never", "always", "flagged"] = "flagged"
    sample: Share = 0.05  # of the other replies that is queued too
    wait: bool = False  # the caller gets a ticket, and the reply once it is approved
    claim: Seconds = 900.0  # that a reviewer has for what they claimed


class Webhooks(Section):
    """How events reach other systems."""

    networks: tuple[IPvAnyNetwork, ...] = ()  # addresses beside public ones that may be called; loopback without TLS
    max_subscriptions: Positive = 20  # of one tenant
    concurrency: Positive = 8  # deliveries at once
    timeout: Seconds = 10.0
    tries: Positive = 8
    backoff: Seconds = 5.0  # before the second try; doubled, with jitter, before each later one
    keep: Days = 7.0  # how long what was delivered, or given up, is listed


class Batch(Section):
    """Files of requests that are answered in the background."""

    max_file: Positive = 20_000_000
    max_stored: Positive = 200_000_000  # all files of one tenant
    max_line: Positive = 1_000_000
    max_lines: Positive = 10_000
    max_active: Positive = 10  # unfinished batches of one tenant
    concurrency: Positive = 4  # lines of all batches at once
    lease: Seconds = 15.0  # after which another gateway goes on with the batches of one that died
    keep: Annotated[float, Field(ge=2)] = 30.0  # days that files are kept; a batch may take one


class People(Section):
    """What people may say of replies, which replies must wait for one, and who is told."""

    review: Review = Review()
    webhooks: Webhooks = Webhooks()
    batch: Batch = Batch()
