"""Ray Serve's autoscaler, compiled: what it sees of the load, and when it follows a wish (release 2.60).

The proxy looks at its requests once a report, and tells the controller what it saw in the last window. The controller
takes the mean over that time, the last value held until now, and no older than the youngest replica.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from forgeline.config.schema.serve.scaling import Scaling
from forgeline.serving.scaling import policy
from forgeline.serving.scaling.render import report_seconds

Floats = NDArray[np.float64]
TICK = 0.1  # seconds from one decision to the next
HAIR = 1e-6  # seconds; sums of ticks are no whole numbers
STEPS = 120  # of times to the first token, geometric
SHORTEST, FACTOR = 0.001, 1.12  # seconds of the first step, and from each to the next

wished = numba.njit(cache=True)(policy.wished)


class Rules(NamedTuple):
    """A policy as numbers; `floor_at` and `floors` are when the schedule's least number changes, and to what."""

    least: int
    most: int
    target: float
    bound: float
    up: float
    down: float
    idle: float
    window: float
    report: float
    floor_at: Floats
    floors: Floats

    @classmethod
    def of(cls, scaling: Scaling, begin: float, seconds: float) -> Rules:
        """Return a policy's rules for a time that begins at `begin` (epoch seconds)."""
        minutes = np.arange(0.0, seconds + 60.0, 60.0) if scaling.schedule else np.zeros(1)
        asked = np.array([policy.floor(scaling, begin + at) for at in minutes], dtype=np.float64)
        changed = np.concatenate(([True], asked[1:] != asked[:-1]))
        return cls(
            *(scaling.min_replicas, scaling.max_replicas, float(scaling.ongoing_requests), scaling.first_token or 0.0),
            *(scaling.up_delay, scaling.down_delay, scaling.idle, scaling.window, report_seconds(scaling)),
            *(minutes[changed], asked[changed]),
        )


class Sight(NamedTuple):
    """What was seen: samples of ongoing requests, and counts of first tokens by step, a row a report.

    `wish` is the direction of the standing wish (-1, 0, 1) and since when; `place` counts samples, those told to the
    controller, and since when they are valid.
    """

    at: Floats
    ongoing: Floats
    late: Floats
    wish: Floats
    place: NDArray[np.int64]

    @classmethod
    def fresh(cls, rules: Rules) -> Sight:
        """Return the sight of an autoscaler that has seen nothing."""
        rows = math.ceil(rules.window / rules.report) + 1
        return cls(np.zeros(rows), np.zeros(rows), np.zeros((rows, STEPS)), np.zeros(2), np.zeros(3, np.int64))


@numba.njit(cache=True)
def look(sight: Sight, now: float, ongoing: float) -> None:
    """Take a sample and tell it."""
    row = sight.place[0] % len(sight.at)
    sight.at[row], sight.ongoing[row] = now, ongoing
    sight.place[0] += 1
    sight.place[1] = sight.place[2]
    sight.late[sight.place[0] % len(sight.at)] = 0.0


@numba.njit(cache=True)
def grown(sight: Sight) -> None:
    """Forget the samples from before a replica was there, from the next report on."""
    sight.place[2] = sight.place[0]


@numba.njit(cache=True)
def first_token(sight: Sight, seconds: float, weight: float) -> None:
    """Count a first token."""
    step = int(math.log(max(seconds, SHORTEST) / SHORTEST) / math.log(FACTOR))
    sight.late[sight.place[0] % len(sight.at), min(step, STEPS - 1)] += weight


@numba.njit(cache=True)
def mean_ongoing(sight: Sight, now: float, window: float) -> float:
    """Return the mean of what was told."""
    size, newest = len(sight.at), sight.place[0] - 1
    oldest = max(newest - size + 1, sight.place[1], 0)
    if newest < oldest:
        return 0.0
    while oldest < newest and sight.at[oldest % size] <= sight.at[newest % size] - window:
        oldest += 1
    total, until = 0.0, now
    for place in range(newest, oldest - 1, -1):
        total += sight.ongoing[place % size] * (until - sight.at[place % size])
        until = sight.at[place % size]
    span = now - until
    return float(total / span if span > 0.0 else sight.ongoing[newest % size])


@numba.njit(cache=True)
def lateness(sight: Sight) -> float:
    """Return the 95th percentile of the times to the first token in the window; 0 if there were none."""
    counts = sight.late.sum(axis=0)
    whole = counts.sum()
    if whole == 0.0:
        return 0.0
    seen = 0.0
    for step in range(STEPS):
        seen += counts[step]
        if seen >= 0.95 * whole:
            return float(SHORTEST * FACTOR ** (step + 0.5))
    return float(SHORTEST * FACTOR**STEPS)


@numba.njit(cache=True)
def decide(rules: Rules, sight: Sight, now: float, target: int, running: int, waiting: float) -> int:
    """Return how many replicas there are to be; `waiting` requests that no replica can take wake the first one."""
    floor = rules.floors[np.searchsorted(rules.floor_at, now, side="right") - 1]
    if running == 0 and waiting > 0.0:
        return max(1, target)
    late = lateness(sight) if rules.bound > 0.0 else 0.0
    ongoing = mean_ongoing(sight, now, rules.window) if running else target * rules.target
    asked = math.ceil(wished(ongoing, running, late, rules.target, rules.bound, floor) - HAIR)
    kept = target
    if asked == target:
        sight.wish[0] = 0.0
    else:
        direction = 1.0 if asked > target else -1.0
        delay = rules.up if asked > target else (rules.idle if target == 1 else rules.down)
        if sight.wish[0] != direction:
            sight.wish[0], sight.wish[1] = direction, now
        if now - sight.wish[1] + HAIR >= delay:
            sight.wish[0] = 0.0
            kept = asked if asked > target or target == 1 else max(1, asked)
    return min(max(kept, rules.least), rules.most)
