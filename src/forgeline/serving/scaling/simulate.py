"""What a policy would do to given traffic: replicas, latency, refusals and cost."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from forgeline.config.schema.serve.limits import Limits
from forgeline.config.schema.serve.scaling import Scaling
from forgeline.serving.scaling import fleet, fluid
from forgeline.serving.scaling.autoscaler import Rules
from forgeline.serving.scaling.render import AT_ONCE
from forgeline.serving.scaling.service import Service
from forgeline.serving.scaling.traffic import LARGEST, Load, Trace

Floats = NDArray[np.float64]
SHARES = (0.5, 0.95, 0.99)
STEPS = 400  # of what is told over time, about
AFTER = 60.0  # seconds after the last request, in which the last replies end; they cost nothing here
HOUR = 3600.0


class Latency(BaseModel):
    """Quantiles in seconds; None if nothing was answered."""

    p50: float | None
    p95: float | None
    p99: float | None


class Outcome(BaseModel):
    """What became of the requests and of the fleet.

    `queue_full` and `queue_timeout` were refused with 429 and 503. `ready` replicas answer; `paid` are those that start
    or end, too. `lost` of them were taken away. The last three are means of steps of `every` seconds.
    """

    method: Literal["each request", "flow"]
    requests: float
    queue_full: float
    queue_timeout: float
    first: Latency
    whole: Latency
    gateways: int
    mean_ready: float
    most_ready: float
    lost: float
    machine_hours: float
    cost: float
    every: float
    asked: list[float]
    ready: list[float]
    paid: list[float]
    ongoing: list[float]

    @property
    def refused(self) -> float:
        """The share of the requests that were."""
        return (self.queue_full + self.queue_timeout) / self.requests if self.requests else 0.0

    @property
    def hours(self) -> float:
        """How long it lasted."""
        return len(self.ready) * self.every / HOUR


def simulate(
    traffic: Trace | Load,
    service: Service,
    scaling: Scaling,
    limits: Limits,
    price: float,
    gateways: int | None = None,
    interruptions: float = 0.0,
    flow: bool | None = None,
    seed: int = 0,
) -> Outcome:
    """Return what a policy does to traffic, with machines of a price an hour that are taken away so often an hour.

    Gateways, if their number is not given, are as many as have turns for what the replicas are meant to have. `flow`
    says whether shares are followed in place of each request; if not given, that is done for millions of them.
    """
    enough = math.ceil(scaling.max_replicas * scaling.ongoing_requests / limits.concurrency)
    gateways = gateways or enough
    doors = fleet.Doors(
        gateways * limits.concurrency, gateways * limits.max_queue, limits.max_wait, AT_ONCE * scaling.ongoing_requests
    )
    pace = fleet.Pace(*service.curves(), np.array([service.start]), interruptions / HOUR)
    requests = traffic.requests if isinstance(traffic, Load) else len(traffic.at)
    if requests > LARGEST if flow is None else flow:
        load = traffic if isinstance(traffic, Load) else traffic.load()
        return _flow(load, pace, doors, scaling, gateways, price, seed)
    trace = traffic.drawn(seed) if isinstance(traffic, Load) else traffic
    return _each(trace, pace, doors, scaling, gateways, price, seed)


def _each(
    trace: Trace, pace: fleet.Pace, doors: fleet.Doors, scaling: Scaling, gateways: int, price: float, seed: int
) -> Outcome:
    every = _every(trace.seconds + AFTER)
    rules = Rules.of(scaling, trace.begin, trace.seconds + AFTER)
    found = fleet.run(trace.at, trace.tokens, pace, doors, rules, every, seed, AFTER)
    steps = max(1, math.ceil(trace.seconds / every))  # what comes after only lets the last requests end
    found = found._replace(ready=found.ready[:steps], paid=found.paid[:steps], ongoing=found.ongoing[:steps])
    answered = found.status == fleet.ANSWERED
    asked = np.bincount(np.minimum((trace.at / every).astype(np.int64), steps - 1), minlength=steps) / every
    return _outcome(
        method="each request",
        requests=len(trace.at),
        refused=np.array([(found.status == fleet.FULL).sum(), (found.status == fleet.LATE).sum()]),
        latency=(_quantiles(found.first[answered]), _quantiles(found.whole[answered])),
        seen=found,
        asked=asked,
        gateways=gateways,
        price=price,
        lost=found.lost,
    )


def _flow(
    load: Load, pace: fleet.Pace, doors: fleet.Doors, scaling: Scaling, gateways: int, price: float, seed: int
) -> Outcome:
    every = _every(len(load.rates))
    rules = Rules.of(scaling, load.begin, len(load.rates))
    found = fluid.run(load.rates, load.lengths, pace, doors, rules, every, seed)
    steps = max(1, math.ceil(len(load.rates) / every))
    found = found._replace(ready=found.ready[:steps], paid=found.paid[:steps], ongoing=found.ongoing[:steps])
    asked = np.bincount((np.arange(len(load.rates)) / every).astype(np.int64), load.rates, steps) / every
    return _outcome(
        method="flow",
        requests=load.requests,
        refused=found.refused,
        latency=(
            [fluid.quantile(found.first, share) for share in SHARES],
            [fluid.quantile(found.whole, share) for share in SHARES],
        ),
        seen=found,
        asked=asked,
        gateways=gateways,
        price=price,
        lost=float(found.lost[0]),
    )


def _outcome(
    method: Literal["each request", "flow"],
    requests: float,
    refused: Floats,
    latency: tuple[list[float], list[float]],
    seen: fleet.Result | fluid.Flow,
    asked: Floats,
    gateways: int,
    price: float,
    lost: float,
) -> Outcome:
    hours = float(seen.paid.sum() * seen.every / HOUR)
    return Outcome(
        method=method,
        requests=requests,
        queue_full=float(refused[0]),
        queue_timeout=float(refused[1]),
        first=_latency(latency[0]),
        whole=_latency(latency[1]),
        gateways=gateways,
        mean_ready=float(seen.ready.mean()),
        most_ready=float(seen.ready.max().round(6)),
        lost=lost,
        machine_hours=hours,
        cost=hours * price,
        every=seen.every,
        asked=asked.round(4).tolist(),
        ready=seen.ready.round(4).tolist(),
        paid=seen.paid.round(4).tolist(),
        ongoing=seen.ongoing.round(4).tolist(),
    )


def _every(seconds: float) -> float:
    """Return whole seconds to a step, for about as many steps as can be shown."""
    return float(max(1, math.ceil(seconds / STEPS)))


def _quantiles(seconds: Floats) -> list[float]:
    known = seconds[~np.isnan(seconds)]
    return [float(np.quantile(known, share)) for share in SHARES] if len(known) else [math.nan] * len(SHARES)


def _latency(values: list[float]) -> Latency:
    return Latency(
        **{f"p{share * 100:.0f}": None if math.isnan(v) else v for share, v in zip(SHARES, values, strict=True)}
    )
