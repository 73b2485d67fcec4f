"""An engine in this process: one thread that owns a model and moves all its requests on together."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from forgeline.errors import ForgelineError
from forgeline.serving.engines import EngineFailed, EngineUnavailable, GenerationRequest, Piece, RequestRefused

logger = logging.getLogger("forgeline.engine")


class Job:
    """One request on its way through the thread; belongs to the event loop it was made in."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.cancelled = False
        self.begun = False
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    async def next(self) -> Piece:
        """Return the next piece of the reply, or raise what came instead."""
        piece = await self._pieces.get()
        if isinstance(piece, RequestRefused):
            raise piece
        if isinstance(piece, Exception):
            raise EngineFailed("The engine failed on this request; the server's log says why.") from piece
        return piece

    def deliver(self, piece: Piece | Exception) -> None:
        """Hand over a piece from the engine's thread."""
        self.begun = True
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


class Batcher(Protocol):
    """A model and the requests it works on; one thread calls it."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names beside its own that a request may ask for."""
        ...

    @property
    def gives_logprobs(self) -> bool:
        """Whether a request may ask for them."""
        ...

    def load(self) -> None:
        """Make ready; may take long, raises ForgelineError."""

    def room(self) -> bool:
        """Whether another request can be added now."""
        ...

    def add(self, job: Job) -> None:
        """Take a request on; raise RequestRefused if it does not fit the model."""

    def drop(self, job: Job) -> None:
        """Forget a request that nobody waits for any more."""

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        ...

    def step(self) -> Iterable[tuple[Job, Piece | Exception]]:
        """Move every request on by a token or so, and return what that brought; the last piece ends a request."""
        ...


class Embedded:
    """The engine of a batcher: `load` and `step` run in a thread of their own."""

    def __init__(self, name: str, batcher: Batcher) -> None:
        self.name = name
        self.ready = False
        self.failure: ForgelineError | None = None
        self.last_piece = float("-inf")
        self._batcher = batcher
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._thread = threading.Thread(target=self._work, name=f"engine-{name}", daemon=True)

    @property
    def depth(self) -> int:
        """How many requests wait for their first token."""
        return self._inbox.qsize() + len(self._waiting) + sum(not job.begun for job in self._running)

    @property
    def models(self) -> tuple[str, ...]:
        """The names beside its own that a request may ask for."""
        return self._batcher.models

    @property
    def gives_logprobs(self) -> bool:
        """Whether a request may ask for them."""
        return self._batcher.gives_logprobs

    async def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    async def close(self) -> None:
        """Wait until the thread has put down what it was doing."""
        self.ready = False
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the reply as it comes; closing the generator cancels it."""
        if not self.ready:
            raise EngineUnavailable("The model is still loading.")
        job = Job(request)
        self._inbox.put(job)
        try:
            while True:
                piece = await job.next()
                yield piece
                if piece.finish_reason:
                    return
        finally:
            job.cancelled = True

    def _work(self) -> None:
        try:
            self._batcher.load()
        except Exception as fault:
            logger.debug("the engine did not load", exc_info=True)
            self.failure = fault if isinstance(fault, ForgelineError) else ForgelineError(repr(fault))
            logger.error("the engine %s cannot be loaded: %s", self.name, self.failure)
            return
        self.ready = True
        while self._take_in():
            self._drop_cancelled()
            self._move_on()

    def _take_in(self) -> bool:
        """Take what has come, and wait for something if there is nothing to do; False at the end."""
        idle = not (self._waiting or self._running)
        while idle or not self._inbox.empty():
            job = self._inbox.get()
            if job is None:
                return False
            self._waiting.append(job)
            idle = False
        while self._waiting and self._batcher.room():
            job = self._waiting.pop(0)
            if job.cancelled:
                continue
            try:
                self._batcher.add(job)
                self._running.append(job)
            except Exception as fault:
                if not isinstance(fault, RequestRefused):
                    logger.exception("the engine did not take a request on")
                job.deliver(fault)
        return True

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._running if job.cancelled]:
            self._running.remove(job)
            self._batcher.drop(job)

    def _move_on(self) -> None:
        if not self._batcher.busy():
            return
        try:
            brought = list(self._batcher.step())
        except Exception as fault:  # nobody knows which request broke it: all of them are told
            logger.exception("the engine failed on a step")
            brought = [(job, fault) for job in self._running]
        for job, piece in brought:
            self.last_piece = time.monotonic()
            job.deliver(piece)
            if (isinstance(piece, Exception) or piece.finish_reason) and job in self._running:
                self._running.remove(job)
                if isinstance(piece, Exception):
                    self._batcher.drop(job)
