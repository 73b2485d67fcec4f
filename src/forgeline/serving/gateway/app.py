"""The gateway put together: what each room of it gets, and which routes lead into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.engine import Remote
from forgeline.errors import ServingError
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine, GenerationRequest
from forgeline.serving.engines.make import made_all
from forgeline.serving.gateway import (
    batch,
    feedback,
    interactions,
    outages,
    retention,
    review_routes,
    status,
    web,
    webhooks,
)
from forgeline.serving.gateway.access.callers import Access
from forgeline.serving.gateway.access.gate import Gate
from forgeline.serving.gateway.access.platform import Platform
from forgeline.serving.gateway.arm import Arm, Arms
from forgeline.serving.gateway.chat import Chat
from forgeline.serving.gateway.door import Door
from forgeline.serving.gateway.exchange import Caller, Exchange, caller_of
from forgeline.serving.gateway.interactions import Interactions
from forgeline.serving.gateway.limits import Limits
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, answer_errors, models_page
from forgeline.serving.gateway.reviews import Reviews
from forgeline.serving.gateway.rollout import routes as rollout_routes
from forgeline.serving.gateway.rollout.rollouts import Rollouts
from forgeline.serving.gateway.schema import CHAT, REFUSALS, describe, told_as
from forgeline.serving.gateway.sse import EventStream, events, whole
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.telemetry.telemetry import Telemetry
from forgeline.serving.gateway.traffic import Traffic
from forgeline.serving.order import Order

PROBE = GenerationRequest(messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0)
PROBE_SECONDS = 10.0
FORM_BYTES = 100_000  # around a file in a form


def create_app(
    engines: dict[str, Engine],
    manifest: Manifest,
    serve: Serve,
    root: Path,
    page: web.Page,
    order: Path | None = None,
) -> FastAPI:
    """Return the application; it opens the store and starts the engines, of which the first is the deployment's own.

    `app.state` has the `arms`, the `traffic` in flight, `access`, `store`, and `order`, the file that it was started
    from, if it was: without one, no other version can be brought in front of callers.
    """
    traffic = Traffic()
    store = Store(serve.store, serve.seen.pending, serve.seen.write_timeout)
    telemetry = Telemetry(serve.seen, manifest.lineage.model, store, lambda: arms.live.engine.depth)
    registry = telemetry.metrics.registry
    access = Access(serve.access, store, registry)
    hooks = webhooks.Webhooks(serve.people.webhooks, store, registry)
    reviews = Reviews(store, serve.people.review, hooks.send)
    shared = {name: engine for name, engine in engines.items() if isinstance(serve.others.get(name), Remote)}
    arms = Arms(Arm.made(manifest, serve, engines, page, root, reviews.open_ticket, shared))
    registry.register(arms)
    chat = Chat(
        arms=arms,
        traffic=traffic,
        limits=Limits(serve.limits, store, registry, partial(_tell_exhausted, hooks)),
        interactions=Interactions(store, serve.seen),
        reviews=reviews,
        telemetry=telemetry,
        tell_blocked=partial(_tell_blocked, hooks),
    )
    batches = batch.Batches(serve.people.batch, store, chat.answer, hooks, registry)

    def arm_of(asked: Order, manifest: Manifest) -> Arm:
        engines, page = (
            made_all(asked.serve, asked.bundle, manifest),
            web.stored_page(asked.bundle, manifest.lineage.model),
        )
        return Arm.made(manifest, asked.serve, engines, page, root, reviews.open_ticket, shared)

    def scrubbed(text: str) -> str:
        return arms.live.guards.scrubbed(text)

    rollouts = Rollouts(arms, order, arm_of, hooks.send)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            store.open()
            opened.callback(store.close)
            access.open()
            opened.callback(access.close)
            for engine in shared.values():
                await engine.start()
                opened.push_async_callback(engine.close)
            await arms.live.start()
            opened.push_async_callback(rollouts.close)  # and the arm that is live by then
            opened.push_async_callback(chat.limits.close)
            opened.callback(telemetry.close)
            for background in (hooks, batches):
                await background.start()
                opened.push_async_callback(background.close)
            looks = (
                retention.keep_swept(store, serve.seen.keep_days),
                outages.watch(lambda: arms.live.engines, lambda event, name: hooks.send(event, {"engine": name})),
            )
            for look in looks:
                opened.callback(asyncio.create_task(look).cancel)
            await rollouts.recover()
            yield

    title = f"Forgeline: {manifest.lineage.model}"
    app = FastAPI(title=title, lifespan=lifespan, docs_url=None, redoc_url=None, responses=REFUSALS)
    describe(app)
    app.state.arms, app.state.traffic = arms, traffic
    app.state.access, app.state.store, app.state.order = access, store, order
    app.add_middleware(Gate, access=access)
    app.add_middleware(Door, traffic=traffic, telemetry=telemetry, live=lambda: arms.live.served, bodies=_bodies(serve))
    if serve.access.platform:
        app.add_middleware(Platform)
    answer_errors(app)
    _add_chat(app, chat)
    _add_probes(app, chat, telemetry.metrics.text)
    hour, depth = telemetry.hour, lambda: chat.limits.depth
    for routes in (
        web.router(lambda: arms.live.page),
        interactions.router(store),
        feedback.router(store, scrubbed, partial(_tell_feedback, hooks, arms)),
        review_routes.router(reviews),
        status.router(hour, arms, traffic, store, reviews, depth, serve.limits.prices.currency),
        rollout_routes.router(rollouts),
        webhooks.router(hooks),
        batch.router(batches),
    ):
        app.include_router(routes)
    return app


def _add_chat(app: FastAPI, chat: Chat) -> None:
    started = int(time.time())

    @app.get("/v1/models")
    async def models(http: Request) -> dict[str, Any]:
        mine, names = caller_of(http).models, chat.arms.live.models
        return models_page([name for name in names if not mine or name in mine], started)

    @app.post("/v1/chat/completions", responses=CHAT)
    async def complete(body: ChatRequest, http: Request) -> Response:
        exchange = chat.exchange(body, caller_of(http), http.state.request_id)
        exchange.traceparent, http.state.exchange = http.headers.get("traceparent"), exchange
        reply = chat.reply(exchange, fresh="no-store" in http.headers.get("cache-control", ""))
        if body.stream and not chat.reviews.may_hold:
            first = await anext(reply)  # what fails before the first byte still gets a status of its own
            return EventStream(events(chat.completion(exchange), body, first, reply), _headers(exchange))
        pieces = await whole(reply, http)
        if exchange.held:
            return JSONResponse(review_routes.waiting(str(exchange.ticket)), 202, _headers(exchange))
        return Response(
            orjson.dumps(chat.completion(exchange).whole(pieces)), 200, _headers(exchange), "application/json"
        )


def _add_probes(app: FastAPI, chat: Chat, metrics: Callable[[], bytes]) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready(http: Request) -> dict[str, str]:
        """Really generate a token, unless the engine has just given one to somebody, or other rungs must answer."""
        if chat.traffic.draining:
            raise ApiError(503, "The server is shutting down.", "draining")
        live = chat.arms.live
        degraded = live.engine.failure is not None and live.ladder.can_answer
        if not degraded and time.monotonic() - live.engine.last_piece > PROBE_SECONDS:
            try:
                async with asyncio.timeout(PROBE_SECONDS), aclosing(live.engine.generate(PROBE)) as reply:
                    await anext(reply)
            except (TimeoutError, ServingError) as fault:
                raise ApiError(503, str(fault) or "The engine gives no token.", "not_ready") from fault
        served = {**live.manifest.lineage.model_dump(), "bundle": live.served.bundle}
        return {"status": "degraded" if degraded else "ready", **(served if caller_of(http).roles else {})}

    @app.get("/metrics", response_class=Response, responses=told_as("text/plain"))
    async def exposition() -> Response:
        return PlainTextResponse(metrics(), media_type="text/plain; version=0.0.4")


def _bodies(serve: Serve) -> dict[str, int]:
    """Return the most bytes of a request's body, by the beginning of its path."""
    return {"/v1/files": serve.people.batch.max_file + FORM_BYTES, "": serve.limits.max_body}


def _headers(exchange: Exchange) -> dict[str, str]:
    return {**exchange.headers, "x-forgeline-rung": exchange.rung}


def _tell_exhausted(hooks: webhooks.Webhooks, caller: Caller) -> None:
    hooks.send("budget.exhausted", {"key": caller.id}, caller.tenant)


def _tell_feedback(hooks: webhooks.Webhooks, arms: Arms, entry: dict[str, Any]) -> None:
    if arms.trial is not None:
        arms.trial.rated(entry["interaction_id"], entry["thumb"] == "down")
    hooks.send("feedback.received", entry, entry["tenant"])
    if entry["thumb"] == "down":
        hooks.send("interaction.flagged", {"interaction_id": entry["interaction_id"], "why": "thumb"}, entry["tenant"])


def _tell_blocked(hooks: webhooks.Webhooks, exchange: Exchange) -> None:
    guards = [verdict.guard for verdict in exchange.verdicts if verdict.action == "block"]
    flagged = {"interaction_id": exchange.id, "why": "block", "guards": guards}
    hooks.send("interaction.flagged", flagged, exchange.caller.tenant)
