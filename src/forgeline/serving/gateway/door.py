"""The outermost layer: names, counts and bounds every request, and turns them away while draining."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.telemetry.metrics import Metrics

ROUTES = {"/v1/chat/completions", "/v1/models", "/healthz", "/readyz", "/metrics"}


@dataclass
class Traffic:
    """What a graceful shutdown watches, and how it ends what does not end by itself."""

    in_flight: int = 0
    draining: bool = False
    over: bool = False
    _waits: set[asyncio.Timeout] = field(default_factory=set)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Raise TimeoutError if a wait lasts until the drain is over."""
        async with asyncio.timeout_at(0 if self.over else None) as bound:
            self._waits.add(bound)
            try:
                yield
            finally:
                self._waits.discard(bound)

    def cut_off(self) -> None:
        """End every wait now."""
        self.over = True
        for bound in self._waits:
            bound.reschedule(0)


class Door:
    """ASGI middleware; `headers` go on every response."""

    def __init__(
        self, app: ASGIApp, traffic: Traffic, metrics: Metrics, headers: dict[str, str], max_body: int
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._metrics = metrics
        self._headers = headers
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_headers = Headers(scope=scope)
        scope["state"]["request_id"] = request_id = _request_id(request_headers)
        status = 500  # what the client sees if the application raises

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({**self._headers, "x-request-id": request_id})
            await send(message)

        self._traffic.in_flight += 1
        try:
            refusal = self._refusal(scope["path"], request_headers)
            app = self._app if refusal is None else JSONResponse(refusal.body(), refusal.status_code, refusal.headers)
            await app(scope, self._bounded(receive), send_named)
        finally:
            self._traffic.in_flight -= 1
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self._traffic.draining and path.startswith("/v1/"):
            return ApiError(503, "The server is shutting down.", "draining", retry_after=5)
        length = headers.get("content-length", "")
        return self._too_large() if length.isdigit() and int(length) > self._max_body else None

    def _bounded(self, receive: Receive) -> Receive:
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise self._too_large()
            return message

        return receive_bounded

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request body is larger than {self._max_body} bytes.", "body_too_large")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
