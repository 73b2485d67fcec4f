"""One thread that feeds the engine, one request at a time, from a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
import weakref
from contextlib import closing

from forgeline.errors import ForgelineError
from forgeline.serving.engines import Engine, GenerationRequest, Piece, RequestRefused
from forgeline.serving.gateway.protocol import ApiError

logger = logging.getLogger("forgeline.gateway")


class Job:
    """One request on its way through the engine; belongs to the event loop it was made in."""

    def __init__(self, request: GenerationRequest, timeout: float) -> None:
        self.request = request
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    async def next(self) -> Piece:
        """Return the next piece of the reply.

        Raises:
            ApiError: if the request was refused, took too long or was hung up on, or the engine failed.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                piece = await self._pieces.get()
        except TimeoutError:
            raise ApiError(504, "The request took longer than request_timeout.", "timeout") from None
        if isinstance(piece, ApiError):
            raise piece
        if isinstance(piece, RequestRefused):
            raise ApiError(400, str(piece), "context_or_template", "messages")
        if isinstance(piece, Exception):
            raise ApiError(500, "The engine failed on this request; the server's log says why.", "engine_failed")
        return piece

    def deliver(self, piece: Piece | Exception) -> None:
        """Hand over a piece from the engine's thread."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def cancel(self, reason: ApiError) -> None:
        """Stop the generation at its next token and tell who waits for it why."""
        self.cancelled = True
        self._pieces.put_nowait(reason)


class Dispatcher:
    """Owns the engine: loads it, feeds it, and knows whether it is well."""

    def __init__(self, engine: Engine, max_queue: int) -> None:
        self.loaded = False
        self.failure: ForgelineError | None = None
        self.last_piece = float("-inf")  # monotonic seconds
        self._engine = engine
        self._jobs: queue.Queue[Job | None] = queue.Queue(max_queue)
        self._open: weakref.WeakSet[Job] = weakref.WeakSet()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def depth(self) -> int:
        """How many requests wait for the engine."""
        return self._jobs.qsize()

    def start(self) -> None:
        """Begin to load the engine."""
        self._thread.start()

    async def close(self) -> None:
        """Wait until the engine's thread has put down what it was doing."""
        await asyncio.to_thread(self._jobs.put, None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, request: GenerationRequest, timeout: float) -> Job:
        """Queue a request; raise ApiError 503 while loading, 429 when the queue is full."""
        if not self.loaded:
            raise ApiError(503, "The model is still loading.", "loading", retry_after=5)
        job = Job(request, timeout)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise ApiError(429, "Too many requests are waiting; try again.", "queue_full", retry_after=1) from None
        self._open.add(job)
        return job

    def cut_off(self) -> None:
        """Cancel every request that has not been answered in full."""
        for job in list(self._open):
            job.cancel(ApiError(503, "The server shut down before the reply was complete.", "draining"))

    def _work(self) -> None:
        try:
            self._engine.load()
        except Exception as fault:
            logger.debug("the engine did not load", exc_info=True)
            self.failure = fault if isinstance(fault, ForgelineError) else ForgelineError(repr(fault))
            return
        self.loaded = True
        while (job := self._jobs.get()) is not None:
            if not job.cancelled:
                self._serve(job)

    def _serve(self, job: Job) -> None:
        try:
            with closing(self._engine.generate(job.request)) as pieces:
                for piece in pieces:
                    if job.cancelled:
                        return
                    self.last_piece = time.monotonic()
                    job.deliver(piece)
        except RequestRefused as refusal:
            job.deliver(refusal)
        except Exception as fault:
            logger.exception("the engine failed on a request")
            job.deliver(fault)
