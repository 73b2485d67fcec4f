"""What every response says to browsers: an ASGI wrapper around all that answers, errors of the framework among them."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forgeline.config.schema.serve.access import Access

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
PAGE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}
API = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'", "cache-control": "no-store"}
HSTS = "max-age=31536000"
EXPOSED = "retry-after, x-request-id, x-forgeline-version, x-forgeline-run, x-forgeline-bundle"


class SecureHeaders:
    """Adds the headers of pages and of the API, HSTS with TLS, and CORS for the origins that are listed."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._origins = access.origins
        self._hsts = {"strict-transport-security": HSTS} if access.tls else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_page = scope["path"] == "/" or scope["path"].startswith("/assets/")
        headers = {**ALWAYS, **(PAGE if is_page else API), **self._hsts, **self._cors(Headers(scope=scope))}

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self._app(scope, receive, send_secured)

    def _cors(self, request: Headers) -> dict[str, str]:
        origin = request.get("origin")
        if origin not in self._origins:
            return {"vary": "origin"} if self._origins else {}
        return {
            "access-control-allow-origin": str(origin),
            "access-control-expose-headers": EXPOSED,
            "cross-origin-resource-policy": "cross-origin",
            "vary": "origin",
        }
