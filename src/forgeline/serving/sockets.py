"""Listening sockets: made here, or passed on by whoever started the process."""

from __future__ import annotations

import os
import socket
import sys

from forgeline.errors import ServingError

FIRST = 3  # the descriptor of the first socket passed on: sd_listen_fds(3)
BACKLOG = 2048  # connections that wait to be accepted
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
        _bound_unread(listener)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)  # some systems tell only here that the port is taken
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as fault:
        if owner := _owner(port):
            raise ServingError(f"Port {port} is in use by {owner}: stop it, or set serve.port.") from fault
        raise ServingError(f"{host}:{port} cannot be listened on ({fault}): set serve.host and serve.port.") from fault
    return listener


def inherited() -> list[socket.socket]:
    """Return the sockets that were passed on, as systemd's socket activation does; what is started from here gets none.

    Without LISTEN_PID they are taken to be this process's.
    """
    variables = [os.environ.pop(f"LISTEN_{name}", None) for name in ("FDS", "PID", "FDNAMES")]
    count, process = int(variables[0] or 0), variables[1]
    if process not in (None, str(os.getpid())):
        return []
    listeners = [socket.socket(fileno=FIRST + number) for number in range(count)]
    for listener in listeners:
        listener.set_inheritable(False)
        _bound_unread(listener)
    return listeners


def _bound_unread(listener: socket.socket) -> None:
    if sys.platform == "linux":  # a client that takes nothing for so long is cut off; uvicorn would wait for ever
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)


def _owner(port: int) -> str | None:
    import psutil

    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            if connection.pid is None:  # another user's process
                return "another program"
            return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None
