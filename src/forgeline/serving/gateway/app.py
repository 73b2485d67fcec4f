"""The routes: chat completions with and without a stream, models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine, GenerationRequest
from forgeline.serving.gateway.chat import pieces, whole
from forgeline.serving.gateway.door import Door, Traffic
from forgeline.serving.gateway.metrics import Metrics
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion, answer_errors, models_page
from forgeline.serving.gateway.sse import HEADERS, MEDIA_TYPE, events

PROBE = GenerationRequest(messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0)
PROBE_SECONDS = 10.0


def create_app(engine: Engine, manifest: Manifest, serve: Serve) -> FastAPI:
    """Return the application; it loads the engine when it starts.

    `app.state.engine` tells whether the engine is well, `app.state.traffic` what is in flight.
    """
    traffic = Traffic()
    metrics = Metrics(manifest, lambda: engine.depth)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        yield
        await engine.close()

    app = FastAPI(title=f"Forgeline: {manifest.lineage.model}", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.engine, app.state.traffic = engine, traffic
    headers = {
        "x-forgeline-version": manifest.lineage.version,
        "x-forgeline-run": manifest.lineage.mlflow_run,
        "x-forgeline-bundle": manifest.digest[:16],
    }
    app.add_middleware(Door, traffic=traffic, metrics=metrics, headers=headers, max_body=serve.limits.max_body)
    answer_errors(app)
    _add_chat(app, manifest, serve, engine, traffic, metrics)
    _add_probes(app, manifest, engine, traffic, metrics)
    return app


def _add_chat(
    app: FastAPI, manifest: Manifest, serve: Serve, engine: Engine, traffic: Traffic, metrics: Metrics
) -> None:
    name = manifest.lineage.model
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return models_page((name, *engine.models), started)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, http: Request) -> Response:
        request = body.to_generation(engine, name, manifest.sampling)
        if engine.depth >= serve.limits.max_queue:
            raise ApiError(429, "Too many requests are waiting; try again.", "queue_full", retry_after=1)
        reply = pieces(engine, request, serve.limits.request_timeout, traffic, metrics)
        completion = Completion(http.state.request_id, body.model, manifest.digest[:16])
        if body.stream:
            first = await anext(reply)  # what fails before the first byte still gets a status of its own
            return StreamingResponse(events(completion, body, first, reply), media_type=MEDIA_TYPE, headers=HEADERS)
        return JSONResponse(completion.whole(await whole(reply, http)))


def _add_probes(app: FastAPI, manifest: Manifest, engine: Engine, traffic: Traffic, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """Really generate a token, unless the engine has just given one to somebody."""
        if traffic.draining:
            raise ApiError(503, "The server is shutting down.", "draining")
        if time.monotonic() - engine.last_piece > PROBE_SECONDS:
            try:
                async with asyncio.timeout(PROBE_SECONDS), aclosing(engine.generate(PROBE)) as reply:
                    await anext(reply)
            except (TimeoutError, ServingError) as fault:
                raise ApiError(503, str(fault) or "The engine gives no token.", "not_ready") from fault
        return {"status": "ready", **manifest.lineage.model_dump(), "bundle": manifest.digest}

    @app.get("/metrics")
    async def exposition() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")
