"""What the gateway counts, in Prometheus' text format, in a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from forgeline.serving.gateway.exchange import Exchange
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.telemetry.traces import Traces

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
GUARD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)
LABELS = 64  # values that a label may have before others are "other"
OTHER = "other"


class Bounded:
    """The values of a label, so many at most: a series is kept for as long as the process lives."""

    def __init__(self, most: int = LABELS) -> None:
        self._known: set[str] = set()
        self._most = most

    def __call__(self, value: str) -> str:
        """Return the value, or "other" if there are too many."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(value)
        return value


class Metrics:
    """The gateway's counters; `depth` tells how many requests wait. Other rooms add theirs to `registry`."""

    def __init__(self, model: str, depth: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("forgeline_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "forgeline_request_seconds", "Request to last byte.", ["route"], buckets=SECONDS, registry=registry
        )
        self.first_token_seconds = Histogram(
            "forgeline_first_token_seconds", "Request to first token.", buckets=SECONDS, registry=registry
        )
        self.token_seconds = Histogram(
            "forgeline_token_seconds", "From one token to the next.", buckets=TOKEN_SECONDS, registry=registry
        )
        self.tokens = Counter("forgeline_tokens", "Tokens read and written.", ["direction", "model"], registry=registry)
        self.errors = Counter("forgeline_errors", "Requests that failed.", ["code"], registry=registry)
        self.verdicts = Counter("forgeline_verdicts", "Of guards.", ["guard", "side", "action"], registry=registry)
        self.guard_seconds = Histogram(
            "forgeline_guard_seconds", "Of a guard's look.", ["guard"], buckets=GUARD_SECONDS, registry=registry
        )
        self.cost = Counter("forgeline_cost", "Price of what was used.", ["model"], registry=registry)
        Gauge("forgeline_queue_depth", "Requests that wait for the engine.", registry=registry).set_function(depth)
        self._own = model
        self._model, self._code, self._guard = Bounded(), Bounded(), Bounded()

    def watch(self, store: Store, traces: Traces) -> None:
        """Show how the database and the collector keep up."""

        def behind() -> float:
            since = store.behind_since
            return 0.0 if since is None else time.monotonic() - since

        for name, told, value in (
            ("forgeline_store_behind_seconds", "Since the database took writes; 0 if it does.", behind),
            ("forgeline_store_depth", "Writes that wait in memory.", lambda: store.depth),
            ("forgeline_store_spooled", "Rows that wait beside the database.", lambda: store.spooled),
            ("forgeline_traces_dropped", "Traces that no collector took.", lambda: traces.dropped),
        ):
            Gauge(name, told, registry=self.registry).set_function(value)

    def count_tokens(self, direction: str, number: int, model: str | None) -> None:
        """Count tokens of a model, of the deployment's own if it is None."""
        self.tokens.labels(direction, self._model(model or self._own)).inc(number)

    def answered(self, exchange: Exchange, error: str | None, cost: float) -> None:
        """Count a chat request that is over, but for its tokens, which are counted as they come."""
        usage, first = exchange.usage, exchange.first_token
        if first is not None:
            self.first_token_seconds.observe(first)
            if usage is not None and usage.completion_tokens > 1:
                self.token_seconds.observe(max(0.0, exchange.age() - first) / (usage.completion_tokens - 1))
        if error is not None:
            self.failed(error)
        for verdict in exchange.verdicts:
            guard = self._guard(verdict.guard)
            self.verdicts.labels(guard, verdict.side, verdict.action).inc()
            self.guard_seconds.labels(guard).observe(verdict.seconds)
        if cost:
            self.cost.labels(self._model(exchange.request.model or self._own)).inc(cost)

    def failed(self, code: str) -> None:
        """Count a request that failed, by the code of its error."""
        self.errors.labels(self._code(code)).inc()

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
