"""Replicas behind a router, request by request: a simulation of discrete events, compiled.

The gateway has so many turns and a queue; who has a turn waits in Ray's proxy for a replica with room, and gets the
less busy of two that are drawn (M. Mitzenmacher, The Power of Two Choices, 2001). A replica answers up to `slots` at
once, each at the pace that was measured for so many, and keeps the others waiting. One that is to go ends what it has
begun; one that is taken away leaves its requests to be asked again.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from forgeline.serving.scaling import autoscaler
from forgeline.serving.scaling.autoscaler import TICK, Rules, Sight

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
SECOND = 1.0
LONG = 6 * 3600.0  # seconds; decisions of longer traffic are simulated at half seconds
NONE, STARTING, READY, GOING = 0, 1, 2, 3
NEVER = np.inf
NOTHING = 1e-6  # of a token; sums of times are not exact
ANSWERED, FULL, LATE = 0, 1, 2  # refused with 429 queue_full, and with 503 queue_timeout


class Doors(NamedTuple):
    """How many requests may be in: `turns` and `queue` of the gateways, `patience` in it, `room` of a replica."""

    turns: int
    queue: int
    patience: float
    room: int


class Pace(NamedTuple):
    """A replica's pace by how many it answers, seconds until it is ready, and how often it is taken away a second.

    There may be several `start`: the replicas that are asked for take them in turn.
    """

    first: Floats
    token: Floats
    start: Floats
    loss: float


class Replicas(NamedTuple):
    """What each replica is doing. `job` begins with those that are answered; the ones that wait in it follow."""

    state: NDArray[np.int8]
    due: Floats  # when something happens to it
    ends: Floats  # when it is taken away
    moved: Floats  # until when its requests were moved on
    born: Floats
    running: Numbers
    held: Numbers
    job: NDArray[np.int64]  # (replicas, room)
    left: NDArray[np.float64]  # (replicas, slots): of the first token, then tokens
    spoken: NDArray[np.bool_]  # (replicas, slots): whether the first token is out
    asked: Numbers  # how many were asked for, beside those of the beginning


class Asked(NamedTuple):
    """When requests come, and the tokens of their replies."""

    at: Floats
    tokens: Floats


class Lines(NamedTuple):
    """Two queues in rings, of the gateway and of the proxy; `ends` are their heads and tails, then placed requests."""

    gate: Numbers
    proxy: Numbers
    ends: Numbers


class Result(NamedTuple):
    """What became of each request, and of the fleet in each step of `every` seconds.

    `first` and `whole` are seconds since the request came; `ready`, `paid` (starting and going ones too) and `ongoing`
    are means of a step.
    """

    first: Floats
    whole: Floats
    status: NDArray[np.int8]
    every: float
    ready: Floats
    paid: Floats
    ongoing: Floats
    lost: int  # replicas that were taken away


def run(
    at: Floats, tokens: Floats, pace: Pace, doors: Doors, rules: Rules, every: float, seed: int, after: float
) -> Result:
    """Return what becomes of requests; the fleet begins with as many replicas as it must have, all ready.

    `after` is how many seconds it is watched once the last request has come.
    """
    most, slots = 3 * rules.most + 8, len(pace.first) - 1
    replicas = Replicas(
        state=np.zeros(most, np.int8),
        due=np.full(most, NEVER),
        ends=np.full(most, NEVER),
        moved=np.zeros(most),
        born=np.zeros(most),
        running=np.zeros(most, np.int64),
        held=np.zeros(most, np.int64),
        job=np.zeros((most, doors.room), np.int64),
        left=np.zeros((most, slots)),
        spoken=np.zeros((most, slots), np.bool_),
        asked=np.zeros(1, np.int64),
    )
    ring = 2 * len(at) + 1  # some are asked again
    lines = Lines(np.zeros(ring, np.int64), np.zeros(ring, np.int64), np.zeros(5, np.int64))
    end = (at[-1] if len(at) else 0.0) + after
    steps = int(end / every) + 1
    result = Result(
        np.full(len(at), np.nan),
        np.full(len(at), np.nan),
        np.zeros(len(at), np.int8),
        every,
        np.zeros(steps),
        np.zeros(steps),
        np.zeros(steps),
        0,
    )
    seeded(seed)
    lost = _simulate(Asked(at, tokens), pace, doors, rules, Sight.fresh(rules), replicas, lines, result, end)
    return result._replace(lost=lost)


@numba.njit(cache=True)
def seeded(seed: int) -> None:
    """Seed the chance of compiled code, which is not numpy's."""
    np.random.seed(seed)


@numba.njit(cache=True)
def _simulate(asked, pace, doors, rules, sight, replicas, lines, result, end):  # type: ignore[no-untyped-def]  # noqa: PLR0915
    at, coming, tick, lost = asked.at, 0, 0, 0
    length = SECOND  # where nothing is decided, nothing is missed
    if rules.least < rules.most:
        length = TICK if end < LONG else 5 * TICK
    target = int(max(rules.least, rules.floors[0]))
    for place in range(target):
        _launch(replicas, place, 0.0, 0.0, pace.loss)
    report = rules.report
    while True:
        place = int(np.argmin(replicas.due))
        now = replicas.due[place]
        arrival = at[coming] if coming < len(at) else NEVER
        if tick * length <= now and tick * length <= arrival:
            now = tick * length
            if now > end:
                break
            tick += 1
            _expire(lines, doors, at, result, now)
            ongoing = lines.ends[4] + lines.ends[3] - lines.ends[2]
            if now + 1e-9 >= report:
                autoscaler.look(sight, now, ongoing)
                report += rules.report
            ready = np.sum(replicas.state == READY)
            target = autoscaler.decide(rules, sight, now, target, ready, lines.ends[3] - lines.ends[2])
            _scale(replicas, target, now, pace)
            step = int(now / result.every)
            share = length / result.every
            result.ready[step] += share * ready
            result.paid[step] += share * np.sum(replicas.state != NONE)
            result.ongoing[step] += share * (ongoing + lines.ends[1] - lines.ends[0])
            _place(replicas, lines, pace, doors, now)
        elif arrival <= now:
            now = arrival
            lines.gate[lines.ends[1] % len(lines.gate)] = coming
            lines.ends[1] += 1
            _admit(lines, doors)
            if lines.ends[1] - lines.ends[0] > doors.queue:
                lines.ends[1] -= 1
                result.status[coming] = FULL
            coming += 1
            _place(replicas, lines, pace, doors, now)
        elif replicas.state[place] == STARTING:
            replicas.state[place] = READY
            replicas.moved[place] = now
            replicas.due[place] = replicas.ends[place]
            autoscaler.grown(sight)
            _place(replicas, lines, pace, doors, now)
        elif now >= replicas.ends[place]:
            lost += 1
            _lose(replicas, place, lines)
        else:
            _move(replicas, place, pace, now)
            _settle(replicas, place, lines, pace, asked, result, sight, now)
            _admit(lines, doors)
            _place(replicas, lines, pace, doors, now)
    return lost


@numba.njit(cache=True)
def _launch(replicas, place, now, start, loss):  # type: ignore[no-untyped-def]
    replicas.state[place] = STARTING if start > 0.0 else READY
    replicas.born[place], replicas.moved[place] = now, now
    replicas.ends[place] = now + start + np.random.exponential(1.0 / loss) if loss > 0.0 else NEVER
    replicas.due[place] = now + start if start > 0.0 else replicas.ends[place]
    replicas.running[place], replicas.held[place] = 0, 0


@numba.njit(cache=True)
def _scale(replicas, target, now, pace):  # type: ignore[no-untyped-def]
    """Start replicas, or let some go: first those that are not ready, then the youngest."""
    alive = np.sum((replicas.state == STARTING) | (replicas.state == READY))
    while alive < target:
        free = np.argmin(replicas.state)
        if replicas.state[free] != NONE:  # all places are taken by replicas that end what they have begun
            break
        _launch(replicas, free, now, pace.start[replicas.asked[0] % len(pace.start)], pace.loss)
        replicas.asked[0] += 1
        alive += 1
    while alive > target:
        last, rank = -1, -1.0
        for place in range(len(replicas.state)):
            if replicas.state[place] in (STARTING, READY):
                value = replicas.born[place] + (NEVER if replicas.state[place] == STARTING else 0.0)
                if value >= rank:
                    last, rank = place, value
        if replicas.held[last]:
            replicas.state[last] = GOING
        else:
            replicas.state[last], replicas.due[last] = NONE, NEVER
        alive -= 1


@numba.njit(cache=True)
def _admit(lines, doors):  # type: ignore[no-untyped-def]
    """Give free turns to those who wait in the gateway."""
    while lines.ends[0] < lines.ends[1] and lines.ends[4] + lines.ends[3] - lines.ends[2] < doors.turns:
        lines.proxy[lines.ends[3] % len(lines.proxy)] = lines.gate[lines.ends[0] % len(lines.gate)]
        lines.ends[3] += 1
        lines.ends[0] += 1


@numba.njit(cache=True)
def _expire(lines, doors, at, result, now):  # type: ignore[no-untyped-def]
    while lines.ends[0] < lines.ends[1]:
        first = lines.gate[lines.ends[0] % len(lines.gate)]
        if now - at[first] <= doors.patience:
            break
        result.status[first] = LATE
        lines.ends[0] += 1


@numba.njit(cache=True)
def _place(replicas, lines, pace, doors, now):  # type: ignore[no-untyped-def]
    """Send those who wait in the proxy to replicas with room."""
    if lines.ends[2] == lines.ends[3]:
        return
    open_ = np.nonzero((replicas.state == READY) & (replicas.held < doors.room))[0]
    while lines.ends[2] < lines.ends[3] and len(open_):
        chosen = open_[np.random.randint(len(open_))]
        if len(open_) > 1:
            other = open_[np.random.randint(len(open_))]
            while other == chosen:
                other = open_[np.random.randint(len(open_))]
            if replicas.held[other] < replicas.held[chosen]:
                chosen = other
        _move(replicas, chosen, pace, now)
        replicas.job[chosen, replicas.held[chosen]] = lines.proxy[lines.ends[2] % len(lines.proxy)]
        lines.ends[2] += 1
        lines.ends[4] += 1
        replicas.held[chosen] += 1
        _begin(replicas, chosen)
        _plan(replicas, chosen, pace)
        if replicas.held[chosen] == doors.room:
            open_ = open_[open_ != chosen]


@numba.njit(cache=True)
def _begin(replicas, place):  # type: ignore[no-untyped-def]
    """Let those who wait in a replica take its free slots."""
    while replicas.running[place] < min(replicas.held[place], replicas.left.shape[1]):
        slot = replicas.running[place]
        replicas.left[place, slot], replicas.spoken[place, slot] = 1.0, False
        replicas.running[place] += 1


@numba.njit(cache=True)
def _move(replicas, place, pace, now):  # type: ignore[no-untyped-def]
    """Move a replica's requests on to now."""
    running, passed = replicas.running[place], now - replicas.moved[place]
    for slot in range(running):
        each = pace.token[running] if replicas.spoken[place, slot] else pace.first[running]
        replicas.left[place, slot] -= passed / each if each > 0.0 else NEVER
    replicas.moved[place] = now


@numba.njit(cache=True)
def _plan(replicas, place, pace):  # type: ignore[no-untyped-def]
    """Say when something happens to a replica next."""
    running, soonest = replicas.running[place], NEVER
    for slot in range(running):
        each = pace.token[running] if replicas.spoken[place, slot] else pace.first[running]
        soonest = min(soonest, max(0.0, replicas.left[place, slot]) * each)
    replicas.due[place] = min(replicas.moved[place] + soonest, replicas.ends[place])


@numba.njit(cache=True)
def _settle(replicas, place, lines, pace, asked, result, sight, now):  # type: ignore[no-untyped-def]
    """Note the first tokens and the replies that are complete; others take the free slots."""
    slot = 0
    while slot < replicas.running[place]:
        one = replicas.job[place, slot]
        if replicas.left[place, slot] > NOTHING:
            slot += 1
        elif not replicas.spoken[place, slot]:
            if np.isnan(result.first[one]):
                result.first[one] = now - asked.at[one]
                autoscaler.first_token(sight, now - asked.at[one], 1.0)
            replicas.spoken[place, slot], replicas.left[place, slot] = True, max(0.0, asked.tokens[one] - 1.0)
        else:
            result.whole[one] = now - asked.at[one]
            last = replicas.running[place] - 1
            replicas.job[place, slot] = replicas.job[place, last]
            replicas.left[place, slot], replicas.spoken[place, slot] = (
                replicas.left[place, last],
                replicas.spoken[place, last],
            )
            for waiting in range(last, replicas.held[place] - 1):
                replicas.job[place, waiting] = replicas.job[place, waiting + 1]
            replicas.running[place] -= 1
            replicas.held[place] -= 1
            lines.ends[4] -= 1
    _begin(replicas, place)
    _plan(replicas, place, pace)
    if replicas.state[place] == GOING and not replicas.held[place]:
        replicas.state[place], replicas.due[place] = NONE, NEVER


@numba.njit(cache=True)
def _lose(replicas, place, lines):  # type: ignore[no-untyped-def]
    """Take a replica away; its requests are asked again, after those who wait in the proxy."""
    for index in range(replicas.held[place]):
        lines.proxy[lines.ends[3] % len(lines.proxy)] = replicas.job[place, index]
        lines.ends[3] += 1
    lines.ends[4] -= replicas.held[place]
    replicas.held[place], replicas.running[place] = 0, 0
    replicas.state[place], replicas.due[place] = NONE, NEVER
