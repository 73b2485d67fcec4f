"""An engine behind a URL: any server of the OpenAI chat API, on this machine or another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import aiohttp
import orjson

from forgeline.config.schema.serve.engine import Timeouts, Transformers
from forgeline.errors import ForgelineError
from forgeline.serving.engines import EngineFailed, EngineUnavailable, GenerationRequest, Piece, RequestRefused
from forgeline.serving.engines.wire import Reply, body, told

logger = logging.getLogger("forgeline.engine")

REFUSED = {400, 413, 422}
UNAVAILABLE = {429, 502, 503, 504}
CHECK_EVERY = 1.0  # seconds from one look at the server's health to the next, unless pieces come from it
CHECK_SECONDS = 10.0  # that its answer may take
LAST_BYTES_SECONDS = 0.1


@dataclass(frozen=True)
class Endpoint:
    """A server of the chat API: its base URL, its key, and what it calls the models.

    `model` is the one meant where a request names none; without it, the first that the server lists. `quiet` is a path
    on the server that tells its health once it was ready, where the usual ones would wake what is to sleep.
    """

    url: str
    key: str | None = None
    model: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    gives_logprobs: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    quiet: str | None = None

    @classmethod
    def own(cls, model: str, served: Transformers, timeouts: Timeouts, quiet: str | None = None) -> Endpoint:
        """Return our own server of a bundle's model, wherever it comes to listen."""
        names = {name: name for name in served.adapters}
        return cls(url="", model=model, models=names, gives_logprobs=True, timeouts=timeouts, quiet=quiet)


class Remote:
    """The engine of an endpoint. Its health is looked at in the background: no request waits for that.

    Text comes as the server sends it, and what is there at once comes as one piece. Closing the reply closes the
    connection, by which every server knows that nobody waits any more. For `usage` see `wire.Reply`.
    """

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self.name = name
        self.ready = False
        self.failure: ForgelineError | None = None
        self.last_piece = float("-inf")
        self.last_sign = float("-inf")  # when it last gave a piece, or was ready and owed none; monotonic seconds
        self.depth = 0
        self.models = tuple(endpoint.models)
        self.gives_logprobs = endpoint.gives_logprobs
        self._endpoint = endpoint
        self._base = endpoint.url.rstrip("/")
        self._model = endpoint.model
        self._doubted = asyncio.Event()
        self._owing = 0  # replies that are not complete
        self._silent = False  # whether the last reply that ended gave nothing for too long

    async def start(self) -> None:
        """Begin to look whether the server is ready."""
        key = self._endpoint.key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._endpoint.timeouts.connect),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        self._watch = asyncio.create_task(self._watched())

    async def close(self) -> None:
        """Close every connection."""
        self.ready = False
        self._watch.cancel()
        await asyncio.wait((self._watch,))
        await self._session.close()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the reply as it comes; closing the generator closes the connection."""
        if not self.ready:
            await asyncio.sleep(0)  # who asks again at once must not keep the loop from seeing it ready
            raise EngineUnavailable(f"The engine {self.name} is not ready.")
        reply = Reply()
        limits, clock = self._endpoint.timeouts, asyncio.get_running_loop().time
        deadline = clock() + limits.first
        waiting = True
        self.depth += 1
        self._owing += 1
        try:
            async with self._asked(request, deadline) as content:
                while not reply.ended:
                    pieces = reply.read(await self._received(content, deadline, begun=not waiting))
                    if not pieces:
                        continue
                    if waiting:
                        self.depth -= 1
                        waiting = False
                    self.last_piece = self.last_sign = time.monotonic()
                    self._silent = False
                    yield Piece.joined(pieces)  # each takes a way of its own through the gateway
                    deadline = clock() + limits.between
                await self._read_to_its_end(content)
        finally:
            self.depth -= waiting
            self._owing -= 1

    @asynccontextmanager
    async def _asked(self, request: GenerationRequest, deadline: float) -> AsyncIterator[aiohttp.StreamReader]:
        """Send a request and yield what the server streams; whatever it answers instead is raised."""
        model = self._endpoint.models.get(request.model, request.model) if request.model else self._model
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.post(
                    f"{self._base}/chat/completions", data=body(request, str(model)), allow_redirects=False
                )
                refusal = None if response.status == 200 else await response.content.read(65_536)
        except (aiohttp.ClientError, OSError) as fault:
            self._doubt(fault)
            why = str(fault) or "it is silent"
            raise EngineUnavailable(f"The engine {self.name} cannot be reached: {why}.") from fault
        try:
            if refusal is not None:
                raise self._refusal(response, refusal)
            yield response.content
        finally:
            # What was read to its end goes back to the pool; a connection with the rest of a reply in it is closed.
            response.release()

    def _refusal(self, response: aiohttp.ClientResponse, answer: bytes) -> ForgelineError:
        said = told(answer)
        if response.status in REFUSED:
            return RequestRefused(said)
        if response.status in UNAVAILABLE:
            after = response.headers.get("Retry-After", "")
            message = f"The engine {self.name} cannot answer now ({response.status}): {said}"
            return EngineUnavailable(message, float(after) if after.isdigit() else None)
        return EngineFailed(f"The engine {self.name} answered with status {response.status}: {said}")

    async def _received(self, content: aiohttp.StreamReader, deadline: float, *, begun: bool) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await content.readany()
        except (aiohttp.ClientError, OSError) as fault:
            self._doubt(fault)
            what = "is silent" if isinstance(fault, TimeoutError) else "closed the connection"
            if begun:
                raise EngineFailed(f"The engine {self.name} {what} in the middle of the reply.") from fault
            raise EngineUnavailable(f"The engine {self.name} {what}.") from fault

    async def _read_to_its_end(self, content: aiohttp.StreamReader) -> None:
        """Take in what ends a response after its last event, without which its connection cannot be used again."""
        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(LAST_BYTES_SECONDS):
                while not content.at_eof():
                    await content.readany()

    def _doubt(self, fault: Exception) -> None:
        self._silent = isinstance(fault, TimeoutError)
        if isinstance(fault, aiohttp.ClientConnectorError):  # nobody listens there
            self.ready = False
        self._doubted.set()

    async def _watched(self) -> None:
        """Look at the server's health for ever: now and then, and as soon as a request doubts it."""
        while True:
            quiet = time.monotonic() - self.last_piece > CHECK_EVERY
            if quiet or not self.ready or self._doubted.is_set():
                self._doubted.clear()
                await self._check()
            try:
                async with asyncio.timeout(CHECK_EVERY):
                    await self._doubted.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(CHECK_EVERY / 10)  # many requests may doubt it at once

    async def _check(self) -> None:
        """Set `ready`: at once if the server is well, and else only if it is not on a second look either.

        One of several replicas may have died with the first look.
        """
        well = await self._looks_well()
        if self.ready and not well:
            await asyncio.sleep(CHECK_EVERY / 10)
            well = await self._looks_well()
        self.ready = well
        if well and not (self._owing or self._silent):
            self.last_sign = time.monotonic()

    async def _looks_well(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                if not await self._is_well():
                    return False
                if self._model is None:
                    self._model = await self._first_model()
                return True
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as fault:
            logger.debug("the engine %s is not ready: %r", self.name, fault)
            return False

    async def _is_well(self) -> bool:
        """Ask for the first of the usual places that the server has."""
        root = self._base.removesuffix("/v1")
        places = [f"{root}/readyz", f"{root}/health", f"{self._base}/models"]
        if self.ready and self._endpoint.quiet:
            places = [urljoin(root, self._endpoint.quiet)]
        for place in places:
            async with self._session.get(place, allow_redirects=False) as response:
                if response.status < 300:
                    return True
                if response.status >= 500:
                    return False
        return False

    async def _first_model(self) -> str:
        async with self._session.get(f"{self._base}/models") as response:
            listed: dict[str, Any] = orjson.loads(await response.content.read(1_000_000))
        model: str = listed["data"][0]["id"]
        return model
