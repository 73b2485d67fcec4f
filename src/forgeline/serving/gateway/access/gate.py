"""The ASGI middleware between the door and the routes: nobody passes without being told apart and let in."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from forgeline.config.schema.serve.access import ANY_HOST
from forgeline.serving.gateway.access.callers import Access
from forgeline.serving.gateway.access.refusal import forbidden
from forgeline.serving.gateway.access.routes import admit
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError

PROBES = {"/healthz", "/readyz"}  # an orchestrator asks by address, and they tell the anonymous nothing
PREFLIGHT = {
    "access-control-allow-methods": "GET, POST, PUT, DELETE",
    "access-control-allow-headers": "authorization, content-type, x-request-id",
    "access-control-max-age": "600",
}


class Gate:
    """Puts the Caller into `scope["state"]["caller"]`, or answers in OpenAI's shape. WebSockets are closed."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif self._is_preflight(scope):
            await Response(status_code=204, headers=PREFLIGHT)(scope, receive, send)
        else:
            try:
                caller = await self._admitted(scope)
            except ApiError as refusal:
                self._access.refused.labels(refusal.code).inc()
                scope["state"]["error"] = refusal.code
                await JSONResponse(refusal.body(), refusal.status_code, refusal.headers)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
            await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope) -> Caller:
        headers, path = Headers(scope=scope), scope["path"]
        if path not in PROBES:
            self._check_host(headers, scope)
        self._check_origin(headers)
        caller: Caller | None = scope.get("state", {}).get("caller")  # as a platform in front has told
        if caller is None:
            caller = await self._access.caller(headers, scope["client"][0] if scope["client"] else "")
        admit(caller, scope["method"], path)
        return caller

    def _check_host(self, headers: Headers, scope: Scope) -> None:
        """Refuse names that are not the server's: a page may have its own name resolved to this address.

        The address itself, by which a cluster's Prometheus asks a pod, is no name that could be resolved to it.
        """
        hosts = headers.getlist("host")
        if self._access.settings.hosts == ANY_HOST:
            return
        known = (*self._access.settings.hosts, *(scope["server"] or ())[:1])
        if len(hosts) != 1 or _name(hosts[0]) not in known:
            raise ApiError(421, "This server does not go by that name: see access.hosts.", "unknown_host")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._access.settings.origins:
            return
        if urlsplit(origin).netloc != headers.get("host"):
            raise forbidden("Pages of other hosts may not ask: see access.origins.", "foreign_origin")

    def _is_preflight(self, scope: Scope) -> bool:
        if scope["method"] != "OPTIONS":
            return False
        headers = Headers(scope=scope)
        asked = "access-control-request-method" in headers
        return asked and headers.get("origin") in self._access.settings.origins


def _name(host: str) -> str:
    """Return a Host header's name in lower case, without its port and an IPv6 address's brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
