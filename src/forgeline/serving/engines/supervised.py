"""An engine in a process of its own, which may crash or hang without the gateway: it is started again."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from forgeline.config.schema.serve.engine import Supervision
from forgeline.errors import ForgelineError, ServingError
from forgeline.serving.engines import GenerationRequest, Piece
from forgeline.serving.engines.remote import Endpoint, Remote
from forgeline.serving.restarts import Restarts

logger = logging.getLogger("forgeline.engine")

LOOK_EVERY = 0.5  # seconds
EXIT_SECONDS = 3.0  # that a process may take to be gone after what it had begun
HARD_END = 10.0  # seconds that a killed process may take to be gone
LAST_LINES = 4_096  # bytes at the end of the log, where a process says why it ended


@dataclass(frozen=True)
class Program:
    """A server of the chat API that can be started here, and how it is spoken to.

    `command` is given the port to listen on, and is called in a thread at each start. A server that wants a key finds
    one in the environment, as `key_variable`. `endpoint` has everything but the URL and the key; `url` is what they
    are to the port.
    """

    command: Callable[[int], Sequence[str]]
    endpoint: Endpoint
    log: Path
    key_variable: str | None = None
    url: Callable[[int], str] = "http://127.0.0.1:{}/v1".format


class Supervised:
    """Keeps a program running, and is its engine; `drain` is how many seconds it gets for what it has begun."""

    def __init__(self, name: str, program: Program, supervision: Supervision, drain: float) -> None:
        self.name = name
        self.failure: ForgelineError | None = None
        self.models = tuple(program.endpoint.models)
        self.gives_logprobs = program.endpoint.gives_logprobs
        self._program = program
        self._supervision = supervision
        self._drain = drain
        self._remote = Remote(name, program.endpoint)  # of the running process; never ready before there is one
        self._last_piece = float("-inf")
        self.pid: int | None = None  # of the process by which all that belongs to the engine was started

    @property
    def ready(self) -> bool:
        """Whether the process takes requests."""
        return self._remote.ready

    @property
    def depth(self) -> int:
        """How many requests wait for their first token."""
        return self._remote.depth

    @property
    def last_piece(self) -> float:
        """When this process, or one before it, last gave a piece."""
        return max(self._last_piece, self._remote.last_piece)

    async def start(self) -> None:
        """Begin to start the process."""
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Let the process end what it has begun, then see that it is gone."""
        self._keeper.cancel()
        await asyncio.wait((self._keeper,))

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the reply as it comes; closing the generator cancels it."""
        return self._remote.generate(request)

    async def _keep(self) -> None:
        """Run the process again and again, until it ends too often."""
        bounds = self._supervision
        restarts = Restarts(bounds.restarts, bounds.window)
        while True:
            try:
                why = await self._run()
            except (ForgelineError, OSError) as fault:  # the command cannot be made, or not started
                why = str(fault)
            pause = restarts.pause()
            if pause is None:
                self.failure = ServingError(
                    f"The engine {self.name} is given up after {len(restarts)} ends in {bounds.window:g} s. The last: "
                    f"{why} Its log is {self._program.log}."
                )
                logger.error("%s", self.failure)
                return
            logger.warning("the engine %s is started again in %.1f s: %s", self.name, pause, why)
            await asyncio.sleep(pause)

    async def _run(self) -> str:
        """Run the process once; return why it ended."""
        port, key = _free_port(), secrets.token_urlsafe(32)
        command = await asyncio.to_thread(self._program.command, port)
        variable = self._program.key_variable
        self._program.log.parent.mkdir(parents=True, exist_ok=True)
        with self._program.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "forgeline.serving.engines.leash", *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | ({variable: key} if variable else {}),
                start_new_session=True,
            )
        endpoint = replace(self._program.endpoint, url=self._program.url(port), key=key if variable else None)
        self._last_piece, self._remote, self.pid = self.last_piece, Remote(self.name, endpoint), process.pid
        await self._remote.start()
        exited = asyncio.create_task(process.wait())
        try:
            if hung := await self._hung(exited):
                return hung
            return f"it ended with exit code {exited.result()}: {self._last_words()}"
        except asyncio.CancelledError:
            process.terminate()
            await asyncio.wait((exited,), timeout=self._drain + EXIT_SECONDS)
            raise
        finally:
            await self._remote.close()
            await _kill(process, exited)

    async def _hung(self, exited: asyncio.Task[int]) -> str | None:
        """Watch until the process exits; return why it counts as hung, if it does before."""
        bounds, began, remote = self._supervision, time.monotonic(), self._remote
        while not exited.done():
            await asyncio.wait((exited,), timeout=LOOK_EVERY)
            loading = remote.last_sign < began
            limit = bounds.start_timeout if loading else bounds.hang_timeout
            if time.monotonic() - max(began, remote.last_sign) > limit:
                return f"it was {'not ready' if loading else 'silent'} for {limit:g} s, and is killed."
        return None

    def _last_words(self) -> str:
        with self._program.log.open("rb") as log:
            log.seek(max(0, self._program.log.stat().st_size - LAST_LINES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing."


async def _kill(process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
    """Let go of the leash, by which everything at its other end is killed, and see that it is gone."""
    assert process.stdin is not None  # noqa: S101
    process.stdin.close()
    await asyncio.wait((exited,), timeout=HARD_END)
    with suppress(ProcessLookupError):
        process.kill()
    await exited


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
