"""Where every request is told of once it is over: counted, traced, and written as a line of log."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from forgeline.config.schema.serve.seen import Seen
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.status import LastHour
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.telemetry.log import RequestLog
from forgeline.serving.gateway.telemetry.metrics import Metrics
from forgeline.serving.gateway.telemetry.traces import Trace, Traces


class Telemetry:
    """`depth` tells how many requests wait for the engine; log lines go to `stream`, standard output if not given."""

    def __init__(
        self, seen: Seen, model: str, store: Store, depth: Callable[[], int], stream: IO[str] | None = None
    ) -> None:
        self.hour = LastHour()
        self.traces = Traces(seen)
        self.log = RequestLog(stream)
        self.metrics = Metrics(model, depth)
        self.metrics.watch(store, self.traces)

    def answered(self, exchange: Exchange, trace: Trace, error: str | None = None, cost: float = 0.0) -> None:
        """Tell of a chat request that is over; `error` is the code of what the caller was told instead of a reply."""
        self.metrics.answered(exchange, error, cost)
        self.hour.answered(exchange, error, cost)
        self.traces.ended(trace, exchange, error, cost)

    def request(
        self,
        id_: str,
        route: str,
        status: int,
        seconds: float,
        caller: Caller | None = None,
        exchange: Exchange | None = None,
        error: str | None = None,
    ) -> None:
        """Tell of any request that is over, a chat request or not; `route` is one of a few."""
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if error is not None and exchange is None:
            self.metrics.failed(error)
            self.hour.refused(error)
        self.log.request(id_, route, status, seconds, caller, exchange, error)

    def close(self) -> None:
        """Send and write what waits."""
        self.traces.close()
        self.log.close()
