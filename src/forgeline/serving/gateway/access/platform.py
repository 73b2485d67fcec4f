"""What a managed endpoint asks of a container: an ASGI wrapper that gives two routes the names that it knows.

SageMaker posts to `/invocations` and asks `/ping`; Vertex AI and Azure ML call what they are told to. They have told
who may (IAM, Microsoft Entra), keep the container's port to themselves, and pass no key of ours on: the Authorization
header holds their own token, or nothing.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from forgeline.serving.gateway.exchange import Caller

INVOKE, PING = "/invocations", "/ping"
ADMITTED = Caller("platform", "platform", frozenset({"caller"}))


class Platform:
    """Turns `/invocations` into a chat request of the caller `platform`, and `/ping` into `/readyz`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] == PING:
            scope = {**scope, "path": "/readyz", "raw_path": b"/readyz"}
        elif scope["type"] == "http" and scope["path"] == INVOKE:
            path = "/v1/chat/completions"
            scope = {**scope, "path": path, "raw_path": path.encode()}
            scope["state"] = {**scope.get("state", {}), "caller": ADMITTED}
        await self._app(scope, receive, send)
