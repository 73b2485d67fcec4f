"""The routes: chat completions with and without a stream, models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine, GenerationRequest, Piece
from forgeline.serving.gateway.chat import pieces, whole
from forgeline.serving.gateway.door import Door, Traffic
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion, from_validation
from forgeline.serving.gateway.telemetry.metrics import Metrics

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
    _answer_errors(app)
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
        listed = [{"id": id_, "object": "model", "created": started, "owned_by": "forgeline"} for id_ in names()]
        return {"object": "list", "data": listed}

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, http: Request) -> Response:
        if body.model not in names():
            message = f"The model `{body.model}` does not exist; this server serves `{'`, `'.join(names())}`."
            raise ApiError(404, message, "model_not_found", "model")
        if not engine.ready:
            raise ApiError(503, "The model is still loading.", "loading", retry_after=5)
        if engine.depth >= serve.limits.max_queue:
            raise ApiError(429, "Too many requests are waiting; try again.", "queue_full", retry_after=1)
        request = body.to_generation(manifest.sampling)
        request = replace(request, model=None if body.model == name else body.model)
        reply = pieces(engine, request, serve.limits.request_timeout, traffic, metrics)
        completion = Completion(http.state.request_id, name, manifest.digest[:16])
        if body.stream:
            first = await anext(reply)  # what fails before the first byte still gets a status of its own
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(completion, first, reply, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        parts = await whole(reply, http)
        text = "".join(piece.text for piece in parts)
        return JSONResponse(completion.whole(text, str(parts[-1].finish_reason), parts[-1].usage))

    def names() -> tuple[str, ...]:
        return (name, *engine.models)


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


async def _events(
    completion: Completion, first: Piece, reply: AsyncGenerator[Piece], include_usage: bool
) -> AsyncIterator[str]:
    yield _event(completion.chunk({"role": "assistant", "content": first.text}, first.finish_reason))
    last = first
    try:
        async with aclosing(reply):
            async for last in reply:
                if last.text or last.finish_reason:
                    yield _event(completion.chunk({"content": last.text} if last.text else {}, last.finish_reason))
    except ApiError as fault:
        yield _event(fault.body())
        return
    if include_usage:
        yield _event(completion.usage_chunk(last.usage))
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _answer_errors(app: FastAPI) -> None:
    """Give every error OpenAI's shape."""

    def respond(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status_code, error.headers)

    @app.exception_handler(HTTPException)
    async def known(request: Request, fault: HTTPException) -> JSONResponse:
        return respond(fault if isinstance(fault, ApiError) else ApiError(fault.status_code, fault.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> JSONResponse:
        return respond(from_validation(list(fault.errors())))

    @app.exception_handler(Exception)
    async def unknown(request: Request, fault: Exception) -> JSONResponse:
        return respond(ApiError(500, "The server failed on this request; its log says why.", "internal"))
