"""Spans on their way to a collector, as OTLP/HTTP in JSON, which needs no library.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from forgeline.sources.environment import expand

if TYPE_CHECKING:
    from forgeline.serving.gateway.telemetry.traces import Span

logger = logging.getLogger("forgeline.gateway")
WAITING = 1000  # traces that may wait; more are dropped
BATCH = 64  # traces to a request
SOON_SECONDS = 0.5  # how long a trace waits for others to go with it
TIMEOUT_SECONDS = 5.0
TRIES = 5
PATIENCE_SECONDS = 0.5  # before the second try, doubled for each later one
BUSY = {429, 502, 503, 504}  # the statuses for which the protocol says to try again
Sent = tuple[str, "Sequence[Span]"]


class Exporter:
    """A thread that sends traces to an endpoint; a collector that cannot be reached costs traces, never a request.

    `${env:NAME}` in the endpoint or a header stands for an environment variable.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], resource: Mapping[str, str]) -> None:
        self._url = urlsplit(expand(endpoint))
        self._headers = {name: expand(value) for name, value in headers.items()} | {"content-type": "application/json"}
        self._resource = {"attributes": _attributes(resource)}
        self._waiting: queue.Queue[Sent | None] = queue.Queue(WAITING)
        self._closing = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def send(self, trace: str, spans: Sequence[Span]) -> None:
        """Queue a trace."""
        try:
            self._waiting.put_nowait((trace, spans))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send what waits, once, and end."""
        self._closing.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(TIMEOUT_SECONDS)

    def _work(self) -> None:
        while True:
            batch = self._batch()
            if batch and not self._is_sent(batch):
                if not self.dropped:
                    logger.warning("traces are dropped: %s does not take them (seen.traces)", self._url.hostname)
                self.dropped += len(batch)
            if self._closing.is_set() and self._waiting.empty():
                return

    def _batch(self) -> list[Sent]:
        batch = [self._waiting.get()]
        until = time.monotonic() + SOON_SECONDS
        with suppress(queue.Empty):
            while len(batch) < BATCH and batch[-1] is not None:
                left = until - time.monotonic()
                batch.append(self._waiting.get(timeout=max(left, 0)))
        return [sent for sent in batch if sent is not None]

    def _is_sent(self, batch: list[Sent]) -> bool:
        body = orjson.dumps(self._request(batch))
        for attempt in range(TRIES):
            status = self._status(body)
            if status is not None and status not in BUSY:
                return status < 300
            if self._closing.wait(PATIENCE_SECONDS * 2**attempt):
                break
        return False

    def _status(self, body: bytes) -> int | None:
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(str(self._url.hostname), self._url.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("POST", self._url.path or "/", body, self._headers)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def _request(self, batch: list[Sent]) -> dict[str, Any]:
        spans = [_span(trace, span) for trace, spans in batch for span in spans]
        scope = {"scope": {"name": "forgeline.gateway"}, "spans": spans}
        return {"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]}


def _span(trace: str, span: Span) -> dict[str, Any]:
    error = {} if span.error is None else {"error.type": span.error}
    return {
        "traceId": trace,
        "spanId": span.id,
        "parentSpanId": span.parent,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.began),
        "endTimeUnixNano": str(span.ended),
        "attributes": _attributes(span.attributes | error),
        "status": {} if span.error is None else {"code": 2, "message": span.error},
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": list(map(_value, value))}}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
