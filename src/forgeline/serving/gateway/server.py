"""A uvicorn server that speaks TLS where it is told to, and drains before it stops."""

from __future__ import annotations

import gc
import logging
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from forgeline.config.schema import Serve
from forgeline.serving.gateway.access.headers import SecureHeaders
from forgeline.serving.gateway.access.tls import check_exposure, server_context

if TYPE_CHECKING:
    from forgeline.serving.gateway.arm import Arms

logger = logging.getLogger("uvicorn.error")
IDLE_SECONDS = 75  # that a connection is kept open: longer than the 60 after which balancers let go of it


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: not ready, new requests get 503, and those in flight have `drain_timeout` seconds.

    A second signal ends the wait. Where it gives way to another server on the same socket, that one takes all new
    connections, and those there are answered here for as long. In each case the process ends with exit code 0.

    Raises:
        ServingError: if it would be open to the network without TLS, or the certificate or its key cannot be used.
    """

    def __init__(self, app: FastAPI, serve: Serve) -> None:
        check_exposure(serve)
        context = server_context(serve.access.tls) if serve.access.tls else None
        super().__init__(
            uvicorn.Config(
                SecureHeaders(app, serve.access),
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whoever asks could name any address
                timeout_graceful_shutdown=1,
                timeout_keep_alive=IDLE_SECONDS,
                ssl_context_factory=(lambda config, default: context) if context else None,
            )
        )
        self._arms: Arms = app.state.arms
        self._traffic = app.state.traffic
        self._drain_timeout = serve.drain_timeout
        self._deadline = float("inf")
        self._gives_way = False
        self._settled = False

    def serve_on(self, *listeners: socket.socket) -> None:
        """Serve until told to stop.

        Raises:
            ForgelineError: if the engine can never answer, and no other rung of the ladder can either.
        """
        self.run(sockets=list(listeners))
        if self._is_lost and (failure := self._arms.live.engine.failure):
            raise failure

    @property
    def _is_lost(self) -> bool:
        live = self._arms.live
        return live.engine.failure is not None and not live.ladder.can_answer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn's own handler would refuse new connections and raise the signal again."""
        self._deadline = time.monotonic() + (0 if self._traffic.draining else self._drain_timeout)
        self._traffic.draining = True

    def give_way(self) -> None:
        """Accept no connection more, answer those there are one last time each, and then end.

        A connection that is idle stays open: its client may be about to ask, and would find it closed.
        """
        self._gives_way = True
        self._deadline = min(self._deadline, time.monotonic() + self._drain_timeout)
        for server in self.servers:
            server.close()
        last = (b"connection", b"close")
        self.config.encoded_headers.append(last)
        self.server_state.default_headers = [*self.server_state.default_headers, last]

    async def on_tick(self, counter: int) -> bool:
        """Stop once drained, or when nothing can answer any more."""
        if self._arms.live.engine.ready and not self._settled:
            self._settled = True
            gc.collect()
            gc.freeze()  # what start-up made stays: to look through it took 0.15 s now and then, for all in flight
        late = time.monotonic() > self._deadline
        if late and self._traffic.in_flight:
            logger.warning("drain_timeout is over: %d requests are cut off", self._traffic.in_flight)
            self._traffic.cut_off()
        left = self._gives_way and not self.server_state.connections
        drained = (self._traffic.draining or left) and not self._traffic.in_flight
        self.should_exit = self.should_exit or drained or late or self._is_lost
        return await super().on_tick(counter)
