"""A gateway's rooms for seeing, on a real database, without an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from scene import LINEAGE
from starlette.types import ASGIApp, Receive, Scope, Send

from forgeline.config.schema.serve.people import Review
from forgeline.config.schema.serve.seen import Seen
from forgeline.serving.bundle import Lineage, Manifest
from forgeline.serving.engines import GenerationRequest, Usage
from forgeline.serving.gateway import feedback, interactions, review_routes, status
from forgeline.serving.gateway.exchange import Caller, Exchange, Served, Verdict
from forgeline.serving.gateway.interactions import Interactions
from forgeline.serving.gateway.protocol import answer_errors
from forgeline.serving.gateway.reviews import Reviews
from forgeline.serving.gateway.store import Store, StoreFailed
from forgeline.serving.gateway.traffic import Traffic

MANIFEST = Manifest.model_construct(lineage=Lineage(**LINEAGE), digest="b" * 64)
ARMS: Any = SimpleNamespace(live=SimpleNamespace(manifest=MANIFEST, served=Served.of(MANIFEST), engines={}))


class Named:
    """Puts the caller that a header names, `id/tenant`, where the gateway's access puts it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            id_, tenant = dict(scope["headers"]).get(b"x-caller", b"anna/shop").decode().split("/")
            scope["state"]["caller"] = Caller(id_, tenant, frozenset())
        await self._app(scope, receive, send)


@dataclass
class Rooms:
    """What the tests ask, and what the gateway would do for them."""

    store: Store
    interactions: Interactions
    reviews: Reviews
    hour: status.LastHour
    client: TestClient
    told: list[tuple[str, dict[str, Any]]]

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        assert self.client.portal is not None
        return self.client.portal.call(function, *arguments)

    def recorded(self, exchange: Exchange, code: int = 200, error: str | None = None) -> Exchange:
        self.run(self.interactions.record, exchange, code, error, 0.25)
        return exchange

    def call(self, method: str, path: str, body: Any = None, caller: str = "anna/shop") -> tuple[int, Any]:
        response = self.client.request(method, path, json=body, headers={"x-caller": caller})
        return response.status_code, response.json()


def exchange(id_: str, *verdicts: str, caller: str = "anna/shop", reply: str = "We open on Sunday.") -> Exchange:
    """Return a finished exchange; a verdict is `guard:action`."""
    name, tenant = caller.split("/")
    found = [Verdict(guard, "out", action) for guard, action in (each.split(":") for each in verdicts)]  # type: ignore[arg-type]
    request = GenerationRequest([{"role": "user", "content": "When do you open?"}], max_tokens=20, temperature=0)
    return Exchange(
        id_,
        Caller(name, tenant, frozenset({"caller"})),
        request,
        rung="transformers" if reply else "queue",
        verdicts=found,
        reply=reply,
        usage=Usage(42, 12),
        finish_reason="stop",
        first_token=0.05,
        served=Served.of(MANIFEST),
    )


def opened(address: str, seen: dict[str, Any], review: dict[str, Any]) -> Rooms:
    """Return the rooms under a policy; the client is to be entered."""
    policy = Seen.model_validate(seen)
    store = Store(address, policy.pending, policy.write_timeout)
    store.open()
    told: list[tuple[str, dict[str, Any]]] = []
    reviews = Reviews(store, Review.model_validate(review), lambda event, review, tenant: told.append((event, review)))
    hour = status.LastHour()
    app = FastAPI()
    answer_errors(app)

    @app.exception_handler(StoreFailed)
    async def failed(request: Request, fault: StoreFailed) -> JSONResponse:
        return JSONResponse({"failed": str(fault)}, 503)

    def mask(text: str) -> str:
        return text.replace("a@b.example", "<EMAIL_1>")

    app.add_middleware(Named)
    app.include_router(interactions.router(store))
    app.include_router(feedback.router(store, mask, lambda entry: told.append(("feedback.received", entry))))
    app.include_router(review_routes.router(reviews))
    app.include_router(status.router(hour, ARMS, Traffic(), store, reviews, lambda: 3, "EUR"))
    client = TestClient(app, raise_server_exceptions=False)
    return Rooms(store, Interactions(store, policy), reviews, hour, client, told)
