"""The routes: chat completions with and without a stream, models, health, readiness, metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from forgeline.config.schema import Serve
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine, GenerationRequest, Piece
from forgeline.serving.gateway.dispatch import Dispatcher, Job
from forgeline.serving.gateway.door import Door, Traffic
from forgeline.serving.gateway.metrics import Metrics
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion, from_validation

PROBE = GenerationRequest(messages=[{"role": "user", "content": "Hello"}], max_tokens=1, temperature=0)
PROBE_SECONDS = 10.0


def create_app(engine: Engine, manifest: Manifest, serve: Serve) -> FastAPI:
    """Return the application; it loads the engine when it starts.

    `app.state.dispatcher` tells whether the engine is well, `app.state.traffic` what is in flight.
    """
    dispatcher = Dispatcher(engine, serve.max_queue)
    traffic = Traffic()
    metrics = Metrics(manifest, lambda: dispatcher.depth)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        dispatcher.start()
        yield
        await dispatcher.close()

    app = FastAPI(title=f"Forgeline: {manifest.lineage.model}", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.dispatcher, app.state.traffic = dispatcher, traffic
    headers = {
        "x-forgeline-version": manifest.lineage.version,
        "x-forgeline-run": manifest.lineage.mlflow_run,
        "x-forgeline-bundle": manifest.digest[:16],
    }
    app.add_middleware(Door, traffic=traffic, metrics=metrics, headers=headers, max_body=serve.max_body)
    _answer_errors(app)
    _add_chat(app, manifest, serve, dispatcher, metrics)
    _add_probes(app, manifest, dispatcher, traffic, metrics)
    return app


def _add_chat(app: FastAPI, manifest: Manifest, serve: Serve, dispatcher: Dispatcher, metrics: Metrics) -> None:
    name = manifest.lineage.model
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": started, "owned_by": "forgeline"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, http: Request) -> Response:
        if body.model != name:
            message = f"The model `{body.model}` does not exist; this server serves `{name}`."
            raise ApiError(404, message, "model_not_found", "model")
        job = dispatcher.submit(body.to_generation(serve.sampling), serve.request_timeout)
        pieces = _follow(job, http, metrics)
        completion = Completion(http.state.request_id, name, manifest.digest[:16])
        first = await anext(pieces)  # what fails before the first byte still gets a status of its own
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = _events(completion, first, pieces, usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        whole = [first, *[piece async for piece in pieces]]
        text = "".join(piece.text for piece in whole)
        return JSONResponse(completion.whole(text, str(whole[-1].finish_reason), whole[-1].usage))


def _add_probes(app: FastAPI, manifest: Manifest, dispatcher: Dispatcher, traffic: Traffic, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """Really generate a token, unless the engine has just given one to somebody."""
        if traffic.draining:
            raise ApiError(503, "The server is shutting down.", "draining")
        if time.monotonic() - dispatcher.last_piece > PROBE_SECONDS:
            try:
                await dispatcher.submit(PROBE, PROBE_SECONDS).next()
            except ApiError as fault:
                raise ApiError(503, fault.detail, fault.code) from fault
        return {"status": "ready", **manifest.lineage.model_dump(), "bundle": manifest.digest}

    @app.get("/metrics")
    async def exposition() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")


async def _follow(job: Job, http: Request, metrics: Metrics) -> AsyncGenerator[Piece]:
    """Yield a job's pieces; cancel it if the client hangs up or nobody listens any more."""
    started = time.perf_counter()
    watcher = asyncio.create_task(_cancel_on_hang_up(job, http))
    try:
        piece = await job.next()
        metrics.first_token_seconds.observe(time.perf_counter() - started)
        metrics.tokens.labels("prompt").inc(piece.usage.prompt_tokens)
        while True:
            metrics.tokens.labels("completion").inc()
            yield piece
            if piece.finish_reason:
                return
            piece = await job.next()
    finally:
        watcher.cancel()
        job.cancel(_closed())


async def _cancel_on_hang_up(job: Job, http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
    job.cancel(_closed())


def _closed() -> ApiError:
    return ApiError(499, "The client closed the connection.", "client_closed")


async def _events(
    completion: Completion, first: Piece, pieces: AsyncGenerator[Piece], include_usage: bool
) -> AsyncIterator[str]:
    yield _event(completion.chunk({"role": "assistant", "content": first.text}, first.finish_reason))
    last = first
    try:
        async for last in pieces:
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
