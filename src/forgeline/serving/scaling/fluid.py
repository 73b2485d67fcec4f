"""Replicas behind a router as shares of a whole, for fleets and traffic too large to follow each request.

`above[k]` is the share of the ready replicas that have k requests or more. Requests come to the less busy of two, so
that a replica with k - 1 gets one at the rate of `above[k-1]**2 - above[k]**2`, and leave at the measured pace: the
mean-field limit of many replicas (N. Vvedenskaya, R. Dobrushin, F. Karpelevich, 1996). Chance is only in what the
autoscaler sees: the requests swing about their mean as a Poisson number does, by which replicas come sooner than they
go. With few replicas it is too hopeful, and where a policy swings by itself it does not find when.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from forgeline.serving.scaling import autoscaler, fleet
from forgeline.serving.scaling.autoscaler import TICK, Rules, Sight
from forgeline.serving.scaling.fleet import Doors, Pace

Floats = NDArray[np.float64]
STEPS, SHORTEST, FACTOR = 700, 0.0005, 1.025  # of latencies: 0.5 ms to hours, 2.5 % apart
STIFF = 0.2  # of a level's requests that may come or go in a step


class Flow(NamedTuple):
    """What became of the traffic: requests by their latency (geometric steps), and the fleet in each step of `every`.

    `refused` are those that found the queue full, and those that waited too long; `lost` replicas were taken away.
    """

    first: Floats
    whole: Floats
    refused: Floats
    every: float
    ready: Floats
    paid: Floats
    ongoing: Floats
    lost: Floats


def run(rates: Floats, lengths: Floats, pace: Pace, doors: Doors, rules: Rules, every: float, seed: int) -> Flow:
    """Return what becomes of requests that come at a rate for each second, with replies of equally likely lengths."""
    steps = int(len(rates) / every) + 1
    flow = Flow(
        *(np.zeros(STEPS), np.zeros(STEPS), np.zeros(2), every),
        *(np.zeros(steps), np.zeros(steps), np.zeros(steps), np.zeros(1)),
    )
    slots = len(pace.first) - 1
    busy = np.minimum(np.arange(doors.room + 1), slots)
    leaves = busy / (pace.first[busy] + (lengths.mean() - 1) * pace.token[busy])
    fleet.seeded(seed)
    _flow(rates, lengths, pace, doors, rules, Sight.fresh(rules), leaves, flow)
    return flow


def quantile(counts: Floats, share: float) -> float:
    """Return the latency below which this share of the requests lies, in seconds; nan if there were none."""
    whole = counts.sum()
    if whole == 0:
        return math.nan
    step = int(np.searchsorted(np.cumsum(counts), share * whole))
    return float(SHORTEST * FACTOR ** (step + 0.5))


@numba.njit(cache=True)
def _flow(rates, lengths, pace, doors, rules, sight, leaves, flow):  # type: ignore[no-untyped-def]  # noqa: PLR0915
    above = np.zeros(doors.room + 2)
    above[0] = 1.0
    target = int(max(rules.least, rules.floors[0]))
    ready, line, gate, going = float(target), 0.0, 0.0, 0.0
    ring = int(pace.start.mean() / TICK) + 2
    starting = np.zeros(ring)
    report, second = rules.report, round(1 / TICK)
    entered, oldest, begun, placed = np.zeros(len(rates) + 2), 0, 0.0, 0.0  # requests by the end of each second
    for tick in range(int(len(rates) / TICK)):
        now, rate = tick * TICK, rates[int(tick * TICK + 1e-9)]
        born = starting[tick % ring]
        starting[tick % ring] = 0.0
        if born > 0.0:
            above[1:] *= ready / (ready + born)
            ready += born
            autoscaler.grown(sight)
        gone = ready * pace.loss * TICK
        held = above[1:].sum()
        line, ready, flow.lost[0] = line + gone * held, ready - gone, flow.lost[0] + gone

        gate += rate * TICK
        entered[int(now + 1e-9) + 1] += rate * TICK + gone * held
        admitted = max(0.0, min(gate, doors.turns - ready * held - line))
        gate, line = gate - admitted, line + admitted
        if gate > doors.queue:
            flow.refused[0] += gate - doors.queue
            entered[int(now + 1e-9) + 1] -= gate - doors.queue
            gate = float(doors.queue)
        full = ready * leaves[-1]
        if gate > doors.patience * full and ready > 0.0:
            flow.refused[1] += gate - doors.patience * full
            begun += gate - doors.patience * full
            gate = doors.patience * full

        came = _move(above, line, ready, leaves)
        line, begun, placed = line - came, begun + came, placed + came
        if tick % second == second - 1:
            whole = int(now + 1e-9) + 1
            entered[whole + 1] = entered[whole]  # the next second goes on from there
            while oldest < whole and entered[oldest + 1] < begun - rate * TICK:
                oldest += 1
            wait = now - oldest if line + gate > rate * TICK else 0.0
            if placed > 0.0:
                _note(above, placed, max(0.0, wait), lengths, pace, sight, flow)
            placed = 0.0
        held = above[1:].sum()

        ongoing = ready * held + line
        if now + 1e-9 >= report:
            autoscaler.look(sight, now, max(0.0, ongoing + math.sqrt(ongoing) * np.random.randn()))
            report += rules.report
        target = autoscaler.decide(rules, sight, now, target, int(ready + 0.5), line)
        alive = ready + starting.sum()
        if alive < target:
            starting[(tick + ring - 1) % ring] += target - alive
        elif alive > target + 1e-9:
            ready, going = _fewer(starting, ready, going, alive - target)
        ending = pace.first[-1] + lengths.mean() * pace.token[-1]
        going -= going * min(1.0, TICK / ending)
        step = int(now / flow.every)
        share = TICK / flow.every
        flow.ready[step] += share * ready
        flow.paid[step] += share * (ready + starting.sum() + going)
        flow.ongoing[step] += share * (ongoing + gate)


@numba.njit(cache=True)
def _move(above, line, ready, leaves):  # type: ignore[no-untyped-def]
    """Let requests come to replicas and leave them for a tick; return how many came."""
    if ready <= 0.0:
        return 0.0
    most = len(leaves) - 1
    came = min(line, ready * max(0.0, most - above[1:-1].sum()) + ready * leaves[-1] * TICK)
    each = came / ready / TICK  # a replica's requests a second
    parts = max(1, math.ceil(TICK * (leaves[-1] + 2 * each) / STIFF))
    length, taken = TICK / parts, 0.0
    for _ in range(parts):
        open_ = max(1e-9, 1.0 - above[most] ** 2)
        below = above[0]
        for level in range(1, most + 1):
            here = above[level]
            comes = min(each * (below**2 - here**2) / open_, max(0.0, below - here) / length)
            goes = leaves[level] * (here - above[level + 1])
            above[level] = min(1.0, max(0.0, here + length * (comes - goes)))
            taken += length * comes * ready
            below = here
    return min(line, taken)


@numba.njit(cache=True)
def _note(above, arrived, wait, lengths, pace, sight, flow):  # type: ignore[no-untyped-def]
    """Count a second's requests by their latency."""
    most, slots = len(above) - 2, len(pace.first) - 1
    busy, weight = 0.0, 0.0
    for level in range(1, most + 1):
        share = level * max(0.0, above[level] - above[level + 1])
        busy, weight = busy + share * min(level, slots), weight + share
    speaking = busy / weight if weight > 0.0 else 1.0
    low = min(int(speaking), slots - 1)
    token = pace.token[low] + (speaking - low) * (pace.token[low + 1] - pace.token[low])
    turn = (pace.first[slots] + (lengths.mean() - 1) * pace.token[slots]) / slots  # from one that leaves to the next
    open_ = max(1e-9, 1.0 - above[most] ** 2)
    for level in range(1, most + 1):
        amount = arrived * (above[level - 1] ** 2 - above[level] ** 2) / open_
        if amount < 1e-6 * arrived:
            continue
        first = wait + pace.first[min(level, slots)] + max(0, level - slots) * turn
        flow.first[_step(first)] += amount
        autoscaler.first_token(sight, first, amount)
        for length in lengths:
            flow.whole[_step(first + max(0.0, length - 1) * token)] += amount / len(lengths)


@numba.njit(cache=True)
def _step(seconds: float) -> int:
    return max(0, min(STEPS - 1, int(math.log(max(seconds, SHORTEST) / SHORTEST) / math.log(FACTOR))))


@numba.njit(cache=True)
def _fewer(starting, ready, going, spare):  # type: ignore[no-untyped-def]
    """Let replicas go: first those that are not ready; return how many are ready, and how many end what they began."""
    for place in range(len(starting)):
        cut = min(spare, starting[place])
        starting[place] -= cut
        spare -= cut
    cut = min(spare, ready)
    return ready - cut, going + cut
