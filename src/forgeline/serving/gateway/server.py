"""A uvicorn server that speaks TLS where it is told to, and drains before it stops."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.serving.gateway.access.headers import SecureHeaders
from forgeline.serving.gateway.access.tls import check_exposure, server_context

if TYPE_CHECKING:
    from forgeline.serving.gateway.arm import Arms

logger = logging.getLogger("uvicorn.error")
UNREAD_MILLISECONDS = 30_000


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        ServingError: naming who has the port, if it is in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux":  # a client that takes nothing for so long is cut off; uvicorn would wait for ever
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
        try:
            listener.bind((host, port))
            listener.listen()  # some systems tell only here that the port is taken
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as fault:
        if owner := _owner(port):
            raise ServingError(f"Port {port} is in use by {owner}: stop it, or set serve.port.") from fault
        raise ServingError(f"{host}:{port} cannot be listened on ({fault}): set serve.host and serve.port.") from fault
    return listener


def _owner(port: int) -> str | None:
    import psutil

    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            if connection.pid is None:  # another user's process
                return "another program"
            return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT: not ready, new requests get 503, and those in flight have `drain_timeout` seconds.

    A second signal ends the wait. Either way the process ends by itself, with exit code 0.

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
                ssl_context_factory=(lambda config, default: context) if context else None,
            )
        )
        self._arms: Arms = app.state.arms
        self._traffic = app.state.traffic
        self._drain_timeout = serve.drain_timeout
        self._deadline = float("inf")
        self._settled = False

    def serve_on(self, listener: socket.socket) -> None:
        """Serve until told to stop.

        Raises:
            ForgelineError: if the engine can never answer, and no other rung of the ladder can either.
        """
        self.run(sockets=[listener])
        if self._is_lost:
            raise self._arms.live.engine.failure

    @property
    def _is_lost(self) -> bool:
        live = self._arms.live
        return live.engine.failure is not None and not live.ladder.can_answer

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn's own handler would refuse new connections and raise the signal again."""
        self._deadline = time.monotonic() + (0 if self._traffic.draining else self._drain_timeout)
        self._traffic.draining = True

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
        drained = self._traffic.draining and not self._traffic.in_flight
        self.should_exit = self.should_exit or drained or late or self._is_lost
        return await super().on_tick(counter)
