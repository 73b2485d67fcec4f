"""A real PostgreSQL server on a loopback port, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Server:
    """A server that a test may stop and start."""

    port: int
    password: str
    _control: list[str]
    _options: str
    _log: str

    @property
    def address(self) -> str:
        return f"postgresql://shop:{self.password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = [*self._control, "-o", self._options, "-l", self._log, "-w", "start"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def stop(self) -> None:
        subprocess.run([*self._control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    here = shutil.which("initdb")
    return Path(here).parent if here else None


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server owned by a user that is not root; skip the test where none is installed."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("the PostgreSQL server is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="forgeline-pg-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    password = folder / "password"
    password.write_text("s3cret-word")
    password.chmod(0o644)
    data, options = str(folder / "data"), f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    initialise = [*as_user, str(binaries / "initdb"), "-D", data, "-U", "shop", "--no-sync", "-A", "scram-sha-256"]
    subprocess.run([*initialise, "--pwfile", str(password)], check=True, capture_output=True, cwd="/")
    control = [*as_user, str(binaries / "pg_ctl"), "-D", data]
    server = Server(port, "s3cret-word", control, options, str(folder / "log"))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
