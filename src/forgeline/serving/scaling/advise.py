"""Which machines and which policy meet a bound on the first token at the least cost, by simulation of measured load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import BaseModel

from forgeline.config.schema import Cost
from forgeline.config.schema.serve.limits import Limits
from forgeline.config.schema.serve.scaling import Scaling, Window
from forgeline.errors import ServingError
from forgeline.serving.scaling.service import Service
from forgeline.serving.scaling.simulate import HOUR, Outcome, simulate
from forgeline.serving.scaling.traffic import DAY, LARGEST, Trace

REFUSED = 0.001  # the most of the requests that may be
MOST = 100_000  # replicas that are looked at
QUICK = 100_000  # requests; more are searched as a flow, and what was found is checked request by request
REPAIRS = 3  # times that such a check may add a tenth of the replicas
TARGETS = (0.5, 0.75, 1.0)  # of the slots, as ongoing requests
ROOM = 1.5  # times the replicas of a fixed fleet that an autoscaled one may have
MONTH = 30 * 24  # hours


class Option(BaseModel):
    """A machine with a policy, and what it would have done; `meets` says whether within the bounds."""

    kind: str
    machine: str
    spot: bool
    scaling: Scaling
    outcome: Outcome
    meets: bool

    @property
    def a_month(self) -> float:
        """The price of 30 such days."""
        return self.outcome.cost / self.outcome.hours * MONTH


class Advice(BaseModel):
    """All options that were found, the cheapest first, and the advice in sentences."""

    bound: float
    options: list[Option]
    sentences: list[str]


class Place(NamedTuple):
    """A machine that was measured, and what an hour of it costs; `losses` are how often an hour it is taken away."""

    machine: str
    service: Service
    price: float
    losses: float = 0.0
    spot: bool = False


class Search:
    """Policies for one trace under one bound on the 95th percentile of the first token, in seconds."""

    def __init__(self, trace: Trace, bound: float, scaling: Scaling, limits: Limits) -> None:
        self._trace = trace
        self._bound = bound
        self._scaling = scaling
        self._limits = limits
        self._quick = len(trace.at) > QUICK

    def option(self, kind: str, place: Place, flow: bool | None = None, **keys: object) -> Option:
        """Return what the policy would do with some keys changed; `flow` is simulate's."""
        scaling = Scaling.model_validate(self._scaling.model_dump() | keys)
        outcome = simulate(
            *(self._trace, place.service, scaling, self._limits, place.price),
            interruptions=place.losses,
            flow=flow,
        )
        late = outcome.first.p95
        meets = late is not None and late <= self._bound and outcome.refused <= REFUSED
        return Option(kind=kind, machine=place.machine, spot=place.spot, scaling=scaling, outcome=outcome, meets=meets)

    def fixed(self, place: Place) -> Option | None:
        """Return the smallest fleet that is always there; None if none of any size meets the bound."""
        slots = place.service.slots

        def of(size: int, flow: bool) -> Option:
            keys = {"min_replicas": size, "max_replicas": size, "ongoing_requests": slots, "schedule": ()}
            return self.option("always on", place, flow, **keys, first_token=None)

        mean = len(self._trace.at) / max(1.0, self._trace.seconds)
        least = max(1, math.floor(mean / place.service.throughput(float(self._trace.tokens.mean()))))
        found = self._least(of, least, MOST)
        return found and self._checked(of, found.scaling.min_replicas, MOST)

    def autoscaled(self, place: Place, size: int) -> Option | None:
        """Return the cheapest autoscaled policy, up to a little more than the size of the fixed fleet."""
        found = []
        for share in TARGETS:

            def of(least: int, flow: bool, target: int = max(1, round(share * place.service.slots))) -> Option:
                keys = {"min_replicas": least, "max_replicas": math.ceil(ROOM * size) + 1, "ongoing_requests": target}
                return self.option("autoscaled", place, flow, **keys, schedule=(), first_token=None)

            found.append((self._least(of, 1, size), of))
        met = [(one, of) for one, of in found if one]
        if not met:
            return None
        best, of = min(met, key=lambda each: each[0].outcome.cost)
        return self._checked(of, best.scaling.min_replicas, size)

    def scheduled(self, place: Place, base: Option) -> Option | None:
        """Return a policy with a minimum for the busy hours of the day; None without a day's traffic, or such hours."""
        if self._trace.seconds < DAY - HOUR:
            return None
        needed = self._needed(place)
        busy = needed > (needed.min() + needed.max()) / 2
        if not busy.any() or busy.all():
            return None
        begin = next(hour for hour in range(24) if busy[hour] and not busy[hour - 1])
        hours = next(length for length in range(1, 25) if not busy[(begin + length) % 24])
        most = base.scaling.max_replicas
        replicas = int(min(most, needed.max()))
        window = Window(start=f"0 {begin} * * *", end=f"0 {(begin + hours) % 24} * * *", replicas=replicas)
        keys = base.scaling.model_dump() | {"schedule": (window,), "min_replicas": int(min(most, needed[~busy].max()))}
        return self.option("autoscaled with a schedule", place, **keys)

    def asleep(self, place: Place, base: Option) -> Option | None:
        """Return the policy scaled to zero; None if there is never silence for long enough."""
        pauses = np.diff(self._trace.at)
        if base.scaling.min_replicas > 1 or not (pauses > base.scaling.idle).any():
            return None
        return self.option("scaled to zero", place, **(base.scaling.model_dump() | {"min_replicas": 0}))

    def _needed(self, place: Place) -> np.ndarray:
        """Return how many replicas each hour of the day needs at its busiest minute, with a fifth to spare."""
        per_minute = np.bincount((self._trace.at // 60).astype(np.int64)) / 60
        zone = ZoneInfo(self._scaling.timezone)
        hours = np.array(
            [datetime.fromtimestamp(self._trace.begin + 60 * at, zone).hour for at in range(len(per_minute))]
        )
        one = 0.8 * place.service.throughput(float(self._trace.tokens.mean()))
        peaks = np.array([per_minute[hours == hour].max(initial=0.0) for hour in range(24)])
        return np.maximum(1, np.ceil(peaks / one))

    def _least(self, of: Callable[[int, bool], Option], low: int, high: int) -> Option | None:
        """Return the option of the smallest number that meets the bound, found by halving; None if none does."""
        step, failed = low, low - 1
        while not (found := of(step, self._quick)).meets:
            if step >= high or hopeless(found, self._bound):
                return None
            failed, step = step, min(high, 2 * step)
        while step - failed > 1:
            middle = (step + failed) // 2
            tried = of(middle, self._quick)
            step, failed, found = (middle, failed, tried) if tried.meets else (step, middle, found)
        return found

    def _checked(self, of: Callable[[int, bool], Option], size: int, high: int) -> Option | None:
        """Return the option of a number, or of a little more, that meets the bound request by request too."""
        exact = len(self._trace.at) <= LARGEST
        for _ in range(REPAIRS + 1):
            if (checked := of(size, not exact)).meets or size >= high:
                break
            size = min(high, size + max(1, size // 10))
        return checked if checked.meets else None


def hopeless(option: Option, bound: float) -> bool:
    """Return whether more replicas cannot help: half of the first tokens are late though hardly any are busy."""
    outcome = option.outcome
    idle = sum(outcome.ongoing) < 0.1 * sum(outcome.ready)
    return idle and (outcome.first.p50 or math.inf) > bound


def advise(
    trace: Trace, services: Mapping[str, Service], cost: Cost, scaling: Scaling, limits: Limits, bound: float
) -> Advice:
    """Return which of the measured machines, with which policy, keep 95 % of first tokens within `bound` seconds.

    Raises:
        ServingError: if no machine that has a price was measured.
    """
    places = [Place(name, service, cost.prices[name]) for name, service in services.items() if name in cost.prices]
    if not places:
        raise ServingError("No machine of configs/cost.yaml was measured: run `forgeline measure` on each.")
    search = Search(trace, bound, scaling, limits)
    options, sentences = [], []
    for place in places:
        now = search.option("as configured", place)
        found = [now, *_of(search, place, cost)]
        options += found
        sentences += list(_said(found, bound, cost.currency, trace))
    options.sort(key=lambda one: (not one.meets, one.a_month))
    return Advice(bound=bound, options=options, sentences=[*_best(options, cost.currency), *sentences])


def _of(search: Search, place: Place, cost: Cost) -> Iterator[Option]:
    fixed = search.fixed(place)
    if fixed is None:
        return
    yield fixed
    best = search.autoscaled(place, fixed.scaling.max_replicas) or fixed
    if best is not fixed:
        yield best
    for other in (search.scheduled(place, best), search.asleep(place, best)):
        if other:
            yield other
            best = min(best, other, key=lambda one: (not one.meets, one.a_month))
    if place.machine in cost.spot:
        offer = cost.spot[place.machine]
        cheap = place._replace(price=offer.price, losses=offer.interruptions, spot=True)
        yield search.option(f"{best.kind}, spot", cheap, **best.scaling.model_dump())


def _best(options: list[Option], currency: str) -> Iterator[str]:
    best = options[0]
    if not best.meets:
        yield "Nothing that was tried meets the bound: a faster machine, or a shorter reply, is needed."
        return
    policy = best.scaling
    keys = f"min_replicas {policy.min_replicas}, max_replicas {policy.max_replicas}, ongoing_requests "
    keys += f"{policy.ongoing_requests}"
    if policy.schedule:
        window = policy.schedule[0]
        keys += f", and {window.replicas} from '{window.start}' to '{window.end}'"
    yield f"Cheapest: {best.kind} on {best.machine} with {keys}, for {best.a_month:,.2f} {currency} a month."


def _said(found: list[Option], bound: float, currency: str, trace: Trace) -> Iterator[str]:
    """Say of each option what was simulated, and what it saves against the fleet that is always on."""
    fixed = next((one for one in found if one.kind == "always on"), None)
    for one in found:
        outcome = one.outcome
        late = (
            "none was answered"
            if outcome.first.p95 is None
            else f"95 % of first tokens within {outcome.first.p95:.2f} s"
        )
        words = f"{one.machine}, {one.kind} ({one.scaling.min_replicas} to {one.scaling.max_replicas} replicas, "
        words += f"{outcome.mean_ready:.1f} on average): {late}, {outcome.refused:.2%} refused, {one.a_month:,.2f} "
        words += f"{currency} a month"
        if fixed and one is not fixed:
            words += f", {abs(1 - one.a_month / fixed.a_month):.0%} "
            words += "less than always on" if one.a_month < fixed.a_month else "more than always on"
        if one.spot:
            words += f"; {outcome.lost:,.0f} replicas were taken away meanwhile"
        yield f"{words}. {'It meets' if one.meets else 'It misses'} the bound of {bound:g} s."
    if fixed is None:
        yield f"{found[0].machine}: no number of replicas meets the bound of {bound:g} s."
    if trace.seconds < DAY - HOUR:
        yield f"{found[0].machine}: a schedule was not judged, for the load covers less than a day."
