"""What is asked, and when: recorded by the gateway, read from a file, or made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from forgeline.errors import ServingError

Floats = NDArray[np.float64]
Shape = Literal["steady", "daily", "bursts"]
DAY = 86_400
LENGTHS = 16  # quantiles of the replies' lengths that stand for all
SWING = 0.8  # of the mean rate, by which a day's rises and falls
BURST_EVERY, BURST_SECONDS, BURST_TIMES = 900, 60, 5.0
REFUSED = ("queue_full", "queue_timeout")  # errors of requests that were load all the same
LARGEST = 2_000_000  # requests that are drawn one by one


class Trace(NamedTuple):
    """Requests one by one: seconds since `begin` (epoch seconds), rising, and the tokens of each reply."""

    at: Floats
    tokens: Floats
    begin: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return float(self.at[-1]) if len(self.at) else 0.0

    def load(self) -> Load:
        """Return it as a rate for each second."""
        rates = np.bincount(self.at.astype(np.int64), minlength=int(self.seconds) + 1).astype(np.float64)
        return Load(rates, lengths(self.tokens), self.begin)

    def times(self, factor: float) -> Trace:
        """Return it with so many times as many requests in the same time, by drawing from it."""
        dice = np.random.default_rng(0)
        chosen = np.sort(dice.integers(0, len(self.at), round(factor * len(self.at))))
        jitter = dice.uniform(-0.5, 0.5, len(chosen)) if factor > 1 else 0.0
        at = np.clip(self.at[chosen] + jitter, 0, self.seconds)
        order = np.argsort(at)
        return Trace(at[order], self.tokens[chosen][order], self.begin)


class Load(NamedTuple):
    """Requests as a rate in each second since `begin`, and a few lengths of replies that are equally likely."""

    rates: Floats
    lengths: Floats
    begin: float = 0.0

    @property
    def requests(self) -> float:
        """How many there will be, on average."""
        return float(self.rates.sum())

    def drawn(self, seed: int) -> Trace:
        """Return requests that come by chance at these rates (a Poisson process)."""
        dice = np.random.default_rng(seed)
        counts = dice.poisson(self.rates)
        at = np.sort(np.repeat(np.arange(len(counts)), counts) + dice.random(counts.sum()))
        return Trace(at, dice.choice(self.lengths, len(at)), self.begin)


def lengths(tokens: Floats) -> Floats:
    """Return a few lengths that stand for all: the middle of each of equally many."""
    return np.quantile(tokens, (np.arange(LENGTHS) + 0.5) / LENGTHS) if len(tokens) else np.ones(1)


def made_up(shape: Shape, rate: float, seconds: int, tokens: float, begin: float = 0.0) -> Load:
    """Return traffic of a mean rate: steady, with a peak a day, or with a burst every quarter of an hour.

    Lengths are spread as a geometric distribution of that mean.
    """
    at = np.arange(seconds)
    match shape:
        case "steady":
            form = np.ones(seconds)
        case "daily":
            form = 1 - SWING * np.cos(2 * np.pi * at / DAY)  # least at midnight
        case "bursts":
            form = np.where(at % BURST_EVERY < BURST_SECONDS, BURST_TIMES, 1.0)
    middle = (np.arange(LENGTHS) + 0.5) / LENGTHS
    spread = np.maximum(1.0, np.log1p(-middle) / np.log1p(-1 / max(tokens, 1.01)))
    return Load(rate * form / form.mean(), spread, begin)


def from_file(path: Path) -> Trace:
    """Return the requests of a file of JSON lines, each with `at` (epoch seconds) and `completion_tokens`.

    A page of `/v1/interactions` has these keys.

    Raises:
        ServingError: if a line has not.
    """
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                rows.append((float(row["at"]), float(row["completion_tokens"] or 1)))
            except (ValueError, LookupError, TypeError) as fault:
                raise ServingError(
                    f"{path}:{number}: each line must be an object with at and completion_tokens ({fault!r})."
                ) from fault
    return _sorted(rows, f"{path} holds no request.")


def recorded(address: str, since: float | None = None) -> Trace:
    """Return the requests that the gateway's engines answered or had no room for, from its database.

    Raises:
        ServingError: if there is none.
    """
    from sqlalchemy import select

    from forgeline.serving.gateway.interactions import INTERACTIONS
    from forgeline.serving.gateway.store import Store

    columns = INTERACTIONS.c
    load = (columns.engine.is_not(None) & (columns.status == 200)) | columns.error.in_(REFUSED)
    asked = select(columns.at, columns.completion_tokens).where(load)
    asked = asked if since is None else asked.where(columns.at >= since)
    rows = [(row["at"], row["completion_tokens"] or 0) for row in Store(address).read_now(asked)]
    usual = float(np.median([tokens for _, tokens in rows if tokens] or [1]))
    rows = [(at, tokens or usual) for at, tokens in rows]
    return _sorted(rows, "The gateway has recorded no request that an engine answered (serve.store).")


def _sorted(rows: list[tuple[float, float]], empty: str) -> Trace:
    if not rows:
        raise ServingError(empty)
    at, tokens = np.array(sorted(rows), dtype=np.float64).T
    return Trace(at - at[0], tokens, float(at[0]))
