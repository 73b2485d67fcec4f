"""Real databases and a real Redis of one's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scene import free_port, wait_for

from forgeline.serving.gateway.store import Store


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'gateway.db'}"


@pytest.fixture
def opened() -> Iterator[Callable[[str], Store]]:
    """Open stores, several on one database if it must be, and close them in the end."""
    stores: list[Store] = []

    def open_(address: str) -> Store:
        stores.append(Store(address))
        stores[-1].open()
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[str], Store], sqlite: str) -> Store:
    return opened(sqlite)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a server of its own, owned by a user that is not root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("the PostgreSQL server is not installed (Debian: apt-get install postgresql)")
    binaries, folder, port = found[-1].parent, Path(tempfile.mkdtemp(prefix="forgeline-pg-")), free_port()
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--clear-groups"]
    data = ["-D", str(folder / "data")]
    initialise = [*as_user, str(binaries / "initdb"), *data, "-U", "gateway", "--no-sync", "-A", "trust"]
    subprocess.run(initialise, check=True, capture_output=True, cwd="/")
    control = [*as_user, str(binaries / "pg_ctl"), *data]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    start = [*control, "-o", options, "-l", str(folder / "log"), "-w", "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
    yield f"postgresql+psycopg://gateway@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    shutil.rmtree(folder)


@dataclass
class RedisServer:
    """A process that can be stopped in its tracks and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        from redis import Redis, RedisError

        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)

        def answers() -> bool:
            try:
                return bool(Redis(port=self.port).ping())
            except RedisError:
                return False

        wait_for(answers, 10)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    pytest.importorskip("redis")
    if not shutil.which("redis-server"):
        pytest.skip("the Redis server is not installed (Debian: apt-get install redis-server)")
    server = RedisServer(tmp_path, free_port())
    server.start()
    yield server
    assert server.process is not None
    server.process.kill()
    server.process.wait()
