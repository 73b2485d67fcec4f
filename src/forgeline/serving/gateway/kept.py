"""A server under a keeper, which holds the socket and says who answers on it."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import FastAPI

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.engine import Remote
from forgeline.serving.gateway.server import Server
from forgeline.serving.keeper import READY, RETIRE, SERVE, SERVING

AWAY_SECONDS = 5.0  # that an engine elsewhere may take to be there, before callers are told that it is not


class Kept(Server):
    """Accepts on the keeper's socket when it is told to, and gives way when it is told to or the keeper is gone."""

    def __init__(self, app: FastAPI, serve: Serve, keeper: socket.socket, shared: socket.socket) -> None:
        super().__init__(app, serve)
        self._channel = keeper
        self._shared = shared
        self._since = time.monotonic()
        self._patience = AWAY_SECONDS if isinstance(serve.engine, Remote) else float("inf")
        self._told_ready = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve on `sockets`, a trial's if there are any, and to listen to the keeper."""
        await super().startup(sockets)
        reader, self._keeper = await asyncio.open_unix_connection(sock=self._channel)
        self._heeding = asyncio.create_task(self._heed(reader, sockets or []))

    async def on_tick(self, counter: int) -> bool:
        """Tell the keeper, once, that to wait any longer is no use: the engine answers, or will not."""
        engine, waited = self._arms.live.engine, time.monotonic() - self._since > self._patience
        if not self._told_ready and (engine.ready or engine.failure or waited):
            self._told_ready = True
            self._keeper.write(READY)
        return await super().on_tick(counter)

    async def _heed(self, reader: asyncio.StreamReader, trial: list[socket.socket]) -> None:
        with suppress(ConnectionError):
            async for line in reader:
                if line == SERVE:
                    await self._take_over(trial)
                    self._keeper.write(SERVING)
                elif line == RETIRE:
                    self.give_way()
                    self._shared.close()
        if not self._gives_way:  # the keeper was killed: whoever comes next finds the port free
            self.give_way()
            self._shared.close()

    async def _take_over(self, trial: list[socket.socket]) -> None:
        """Accept on the shared socket, as uvicorn's own start-up does, and no more where the trial was."""
        config, tried = self.config, self.servers
        kind: Any = config.http_protocol_class
        protocol = partial(kind, config=config, server_state=self.server_state, app_state=self.lifespan.state)
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(protocol, sock=self._shared, ssl=config.ssl, backlog=config.backlog)]
        for server in tried:
            server.close()
        for listener in trial:
            listener.close()
