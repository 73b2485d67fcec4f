"""An engine in a process of its own: `python -m forgeline.serving.engines.server --bundle PATH --settings PATH`.

It speaks the OpenAI chat API over loopback, to a gateway alone: it asks nobody who they are and bounds nothing.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Read when torch is imported. Threads that spin for long while they wait starve the others on a busy machine; those
# that do not spin at all are late for the next product, which is 0.1 ms away.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from forgeline.config.schema import Serve
from forgeline.errors import ForgelineError, ServingError
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.engines import Engine, GenerationRequest, Piece
from forgeline.serving.engines.make import made
from forgeline.serving.gateway.protocol import (
    ApiError,
    ChatRequest,
    Completion,
    answer_errors,
    from_engine,
    models_page,
)
from forgeline.serving.gateway.sse import EventStream, events, whole
from forgeline.serving.sockets import listen


def create_app(engine: Engine, manifest: Manifest) -> FastAPI:
    """Return an application that loads the engine when it starts, and puts it down when it ends."""
    name, started = manifest.lineage.model, int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        yield
        await engine.close()

    app = FastAPI(title=f"Engine of {name}", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    answer_errors(app)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> dict[str, Any]:
        if not engine.ready:
            raise ApiError(503, "The model is still loading.", "loading", retry_after=5)
        return {"status": "ready", "bundle": manifest.digest, "depth": engine.depth, "logprobs": engine.gives_logprobs}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return models_page((name, *engine.models), started)

    @app.post("/v1/chat/completions")
    async def complete(body: ChatRequest, http: Request) -> Response:
        reply = _pieces(engine, body.to_generation(engine, name, manifest.sampling))
        completion = Completion(uuid.uuid4().hex, body.model, manifest.digest[:16])
        if body.stream:
            first = await anext(reply)  # what fails before the first byte still gets a status of its own
            return EventStream(events(completion, body, first, reply))
        return JSONResponse(completion.whole(await whole(reply, http)))

    return app


async def _pieces(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Piece]:
    try:
        async with aclosing(engine.generate(request)) as reply:
            async for piece in reply:
                yield piece
    except ServingError as fault:
        raise from_engine(fault) from fault


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT it takes nothing new, and what is in flight has `drain_timeout` seconds.

    A second signal ends the wait. Either way the process ends by itself, with exit code 0.
    """

    def __init__(self, engine: Engine, manifest: Manifest, drain_timeout: float) -> None:
        app = create_app(engine, manifest)
        super().__init__(uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=round(drain_timeout)))
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; uvicorn's own handler would raise the signal again."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until told to stop; raises the engine's ForgelineError if it can never answer."""
        self.run(sockets=[listener])
        if self._engine.failure:
            raise self._engine.failure

    async def on_tick(self, counter: int) -> bool:
        """Stop also when the engine can never answer."""
        return await super().on_tick(counter) or self._engine.failure is not None


def main() -> None:
    """Read the command line and serve until told to stop; a relative base model is found below the working folder."""
    parser = argparse.ArgumentParser(prog="python -m forgeline.serving.engines.server", description="Serve an engine.")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--settings", type=Path, required=True, help="the deployment's settings, as JSON")
    parser.add_argument("--port", type=int, required=True, help="on loopback; the settings' own is the gateway's")
    arguments = parser.parse_args()
    serve = Serve.model_validate_json(arguments.settings.read_bytes())
    manifest = verify(arguments.bundle, serve.signing)
    listener = listen("127.0.0.1", arguments.port)
    engine = made(serve.engine, arguments.bundle, manifest, serve=serve)
    Server(engine, manifest, serve.drain_timeout).serve_on(listener)


if __name__ == "__main__":
    try:
        main()
    except ForgelineError as fault:
        sys.exit(f"error: {fault}")
