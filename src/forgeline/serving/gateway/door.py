"""The outermost layer: names, counts and bounds every request, and turns them away while draining."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forgeline.serving.gateway.exchange import Exchange, Served, fresh
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.telemetry.telemetry import Telemetry
from forgeline.serving.gateway.traffic import Traffic

ROUTES = {"/v1/chat/completions", "/v1/models", "/healthz", "/readyz", "/metrics"}


class Door:
    """ASGI middleware; every response names the bundle that gave it, or else the `live` one.

    `bodies` are the most bytes a body may have, by path.
    """

    def __init__(
        self,
        app: ASGIApp,
        traffic: Traffic,
        telemetry: Telemetry,
        live: Callable[[], Served],
        bodies: Mapping[str, int],
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._telemetry = telemetry
        self._live = live
        self._bodies = bodies

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
                exchange: Exchange | None = scope["state"].get("exchange")
                served = exchange.served if exchange else self._live()
                MutableHeaders(scope=message).update({**served.headers, "x-request-id": request_id})
            await send(message)

        self._traffic.in_flight += 1
        try:
            refusal = self._refusal(scope["path"], request_headers)
            scope["state"]["error"] = refusal.code if refusal else None
            app = self._app if refusal is None else JSONResponse(refusal.body(), refusal.status_code, refusal.headers)
            await app(scope, self._bounded(receive, self._most(scope["path"])), send_named)
        finally:
            self._traffic.in_flight -= 1
            route = scope["path"] if scope["path"] in ROUTES else "other"
            seconds, state = time.perf_counter() - started, scope["state"]
            about = (state.get("caller"), state.get("exchange"), state.get("error"))
            self._telemetry.request(request_id, route, status, seconds, *about)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self._traffic.draining and path.startswith("/v1/"):
            return ApiError(503, "The server is shutting down.", "draining", retry_after=5)
        length = headers.get("content-length", "")
        most = self._most(path)
        return _too_large(most) if length.isdigit() and int(length) > most else None

    def _most(self, path: str) -> int:
        return next(most for beginning, most in self._bodies.items() if path.startswith(beginning))

    def _bounded(self, receive: Receive, most: int) -> Receive:
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise _too_large(most)
            return message

        return receive_bounded


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {most} bytes.", "body_too_large")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w-]{1,64}", given, re.ASCII) else fresh()
