"""The keeper with gateways of a few lines that crash, hang and stay as they are told: real processes and sockets."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from scene import free_port, wait_for

from forgeline.errors import ServingError
from forgeline.serving import keeper as keepers
from forgeline.serving.keeper import Keeper, Launch
from forgeline.serving.restarts import Restarts
from forgeline.serving.sockets import listen

# It answers a connection with its order's name and ends the next time that it is told to retire, or asked for "die".
GATEWAY = """#!{python} -S
import os, selectors, signal, socket, sys
order, channel = sys.argv[4], socket.socket(fileno=int(sys.argv[6]))
name = os.path.basename(order)
if "broken" in name:
    sys.exit("the model is missing")
if "deaf" in name:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sockets = [socket.socket(fileno=3 + at) for at in range(int(os.environ["LISTEN_FDS"]))]
watched = selectors.DefaultSelector()
watched.register(channel, selectors.EVENT_READ)
for trial in sockets[1:]:
    watched.register(trial, selectors.EVENT_READ)
channel.send(b"ready\\n")
while True:
    for key, _ in watched.select():
        if key.fileobj is channel:
            word = channel.recv(64)
            if word == b"serve\\n":
                watched.register(sockets[0], selectors.EVENT_READ)
                channel.send(b"serving\\n")
            elif "deaf" not in name or not word:
                sys.exit()
            else:
                watched.unregister(sockets[0])
        else:
            connection = key.fileobj.accept()[0]
            if connection.recv(64) == b"die":
                os.kill(os.getpid(), signal.SIGKILL)
            connection.sendall(f"{{name}} {{os.getpid()}}".encode())
            connection.close()
"""


# What systemd does: the socket is descriptor 3, and the variables say so to this process alone.
ACTIVATION = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}}
code = "import sys; sys.executable = {python!r}; from forgeline.serving.keeper import main; main()"
os.execv(sys.executable, [sys.executable, "-c", code, "--order", sys.argv[2]])
"""


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


@pytest.fixture
def python(tmp_path: Path) -> str:
    script = tmp_path / "python"
    script.write_text(GATEWAY.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


def launch(folder: Path, python: str, name: str, port: int) -> Launch:
    order = folder / name
    order.write_text(json.dumps({"serve": {"host": "127.0.0.1", "port": port, "drain_timeout": 0.1}}))
    return Launch.of(order, python, {})


@asynccontextmanager
async def keeping(folder: Path, python: str, name: str = "first") -> AsyncIterator[tuple[Keeper, int]]:
    port = free_port()
    keeper = Keeper(launch(folder, python, name, port), listen("127.0.0.1", port))
    server = await asyncio.start_unix_server(keeper.converse, folder / "control")
    try:
        yield keeper, port
    finally:
        keeper.end()
        await keeper.wait()
        server.close()


async def said(port: int, asked: bytes = b"who") -> list[str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(asked)
    answer = await reader.read()
    writer.close()
    return answer.decode().split()


class Deployer:
    """Whoever deploys, as far as the conversation goes."""

    def __init__(self, folder: Path, python: str, port: int) -> None:
        self.folder, self.python, self.port = folder, python, port

    async def ask(self, name: str, port: int | None = None, python: str | None = None) -> dict[str, Any]:
        self.reader, self.writer = await asyncio.open_unix_connection(self.folder / "control")
        launch(self.folder, self.python, name, port or self.port)
        asked = {"order": str(self.folder / name), "python": python or self.python, "environment": {}}
        return await self.say(asked)

    async def say(self, said: dict[str, Any]) -> dict[str, Any]:
        self.writer.write(json.dumps(said).encode() + b"\n")
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer

    async def passes(self) -> dict[str, Any]:
        following = self.folder / "state.next"
        following.write_text("following")
        return await self.say({"serve": [str(following), str(self.folder / "state")]})


@in_loop
async def test_a_gateway_that_dies_is_started_again_and_callers_wait(tmp_path: Path, python: str) -> None:
    async with keeping(tmp_path, python) as (_, port):
        name, process = await said(port)
        assert await said(port, b"die") == []
        again = await asyncio.gather(*(said(port) for _ in range(20)))  # none is refused
        assert {answer[0] for answer in again} == {name} == {"first"}
        assert {answer[1] for answer in again} != {process}


@in_loop
async def test_one_that_dies_too_often_is_given_up_with_the_reason(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "RESTARTS", 1)
    async with keeping(tmp_path, python) as (keeper, port):
        for _ in range(2):
            assert await said(port, b"die") == []
        why = await asyncio.wait_for(keeper.wait(), 10)
        assert why == "The gateway is given up after 2 ends in 600 s. The last: it was ended by SIGKILL."


@in_loop
async def test_one_that_was_never_ready_is_not_tried_again(tmp_path: Path, python: str) -> None:
    async with keeping(tmp_path, python, "broken") as (keeper, _):
        assert await keeper.wait() == "The gateway was never ready: it ended with exit code 1."


@in_loop
async def test_an_update_is_tried_by_itself_before_it_takes_over(tmp_path: Path, python: str) -> None:
    async with keeping(tmp_path, python) as (_, port):
        _, first = await said(port)
        deployer = Deployer(tmp_path, python, port)
        trial = (await deployer.ask("second"))["trial"]
        assert (await said(trial))[0] == "second"
        assert {(await said(port))[0] for _ in range(5)} == {"first"}
        assert "under way" in (await Deployer(tmp_path, python, port).ask("third"))["refused"]
        assert not (tmp_path / "state").exists()
        answer = await deployer.passes()
        assert (tmp_path / "state").read_text() == "following"
        assert await said(port) == ["second", str(answer["process"])]
        await asyncio.to_thread(wait_for, lambda: not psutil.pid_exists(int(first)))


@in_loop
async def test_what_does_not_pass_is_ended_and_the_old_one_never_noticed(tmp_path: Path, python: str) -> None:
    async with keeping(tmp_path, python) as (_, port):
        first = await said(port)
        deployer = Deployer(tmp_path, python, port)
        assert "trial" in await deployer.ask("broken")
        assert (await deployer.hear())["refused"] == "The new gateway is gone: it ended with exit code 1."
        refused = await deployer.ask("second", python=str(tmp_path / "nowhere"))
        assert "nowhere cannot be started" in refused["refused"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            refused = await deployer.ask("second", port=taken.getsockname()[1])
            assert "is in use by" in refused["refused"]
        trial = (await deployer.ask("second"))["trial"]
        _, second = await said(trial)
        deployer.writer.close()  # as a deployment that was killed does
        await asyncio.to_thread(wait_for, lambda: not psutil.pid_exists(int(second)))
        assert await said(port) == first


@in_loop
async def test_another_port_is_bound_before_the_old_one_is_left(tmp_path: Path, python: str) -> None:
    async with keeping(tmp_path, python) as (_, port):
        await said(port)
        deployer, other = Deployer(tmp_path, python, port), free_port()
        await deployer.ask("second", port=other)
        await deployer.passes()
        assert (await said(other))[0] == "second"
        with pytest.raises(ConnectionError):
            await said(port)


@in_loop
async def test_one_that_does_not_give_way_is_killed(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "EXIT_SECONDS", 0.2)
    async with keeping(tmp_path, python, "deaf") as (_, port):
        _, deaf = await said(port)
        deployer = Deployer(tmp_path, python, port)
        await deployer.ask("second")
        await deployer.passes()
        await asyncio.to_thread(wait_for, lambda: not psutil.pid_exists(int(deaf)))
        assert (await said(port))[0] == "second"


def test_a_keeper_that_is_killed_leaves_no_gateway(tmp_path: Path, python: str) -> None:
    """On a socket that is passed on as systemd passes it, whose manager is told when all is ready."""
    with socket.create_server(("127.0.0.1", 0)) as held, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        port = held.getsockname()[1]
        order = launch(tmp_path, python, "first", port).order
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        keeper = subprocess.Popen(
            [sys.executable, "-c", ACTIVATION.format(python=python), str(held.fileno()), str(order)],
            env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            pass_fds=[held.fileno()],
        )
        assert manager.recv(64) == b"READY=1"
        _, gateway = asyncio.run(said(port))
        memory = psutil.Process(keeper.pid).memory_info().rss
        assert memory < 40e6, f"the keeper takes {memory / 1e6:.0f} MB"
        keeper.send_signal(signal.SIGKILL)
        keeper.wait()
        wait_for(lambda: not psutil.pid_exists(int(gateway)))


def test_an_order_that_is_none_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "order").write_text("[]")
    command = [sys.executable, "-m", "forgeline.serving.keeper", "--order", str(tmp_path / "order")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "is not an order" in ended.stderr
    with pytest.raises(ServingError, match="is not an order"):
        Launch.of(tmp_path / "none", "", {})


def test_the_pause_doubles_and_old_ends_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    restarts = Restarts(3, window=60)
    assert [restarts.pause() for _ in range(4)] == [0.1, 0.2, 0.4, None]
    now = 61
    assert restarts.pause() == 0.1
