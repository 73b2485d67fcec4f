"""Engines in processes of their own: real processes that crash, hang, stay and are left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from scene import HELLO, wait_for
from test_remote import asked, until

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.engine import Supervision, Timeouts
from forgeline.errors import ServingError
from forgeline.serving.bundle import verify
from forgeline.serving.engines import Engine, EngineFailed, EngineUnavailable, GenerationRequest
from forgeline.serving.engines.make import made_all
from forgeline.serving.engines.remote import Endpoint
from forgeline.serving.engines.supervised import Program, Supervised

# A server of a few lines. A file named in its folder changes what it does: `hang`, `deaf`, `broken`, `slow`.
SERVER = """
import http.server, json, os, pathlib, signal, subprocess, sys, time
folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
says = lambda name: (folder / name).exists()
with (folder / "starts").open("a") as starts:
    starts.write(f"{os.getpid()}\\n")
if says("broken"):
    sys.exit("error: the model is missing")
if says("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(folder / "grandchild").write_text(str(grandchild.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *said): pass
    def do_GET(self):
        while says("hang"):
            time.sleep(0.05)
        self.answer(b'{"data": [{"id": "m"}]}')
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer " + os.environ["THE_KEY"]:
            return self.answer(b"who?", 401)
        while says("hang") or says("slow"):
            time.sleep(0.05)
        event = {"choices": [{"delta": {"content": str(os.getpid())}, "finish_reason": "stop"}]}
        self.answer(b"data: " + json.dumps(event).encode() + b"\\n\\ndata: [DONE]\\n\\n")
    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
REQUEST = GenerationRequest(messages=HELLO, max_tokens=4, temperature=0.0)


def program(folder: Path, timeouts: Timeouts | None = None) -> Program:
    script = folder / "server.py"
    script.write_text(SERVER)
    return Program(
        command=lambda port: [sys.executable, str(script), str(folder), str(port)],
        endpoint=Endpoint(url="", timeouts=timeouts or Timeouts()),
        log=folder / "engine.log",
        key_variable="THE_KEY",
    )


def starts(folder: Path) -> list[int]:
    path = folder / "starts"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@asynccontextmanager
async def supervised(folder: Path, drain: float = 5, **bounds: Any) -> AsyncIterator[Supervised]:
    timeouts = Timeouts(first=bounds.pop("first", 20))
    engine = Supervised("child", program(folder, timeouts), Supervision(**bounds), drain)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def answered_by(engine: Engine) -> int:
    await until(lambda: engine.ready, 30)
    return int((await asked(engine, REQUEST))[-1].text)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_process_comes_back_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with supervised(tmp_path) as engine:
            with pytest.raises(EngineUnavailable, match="not ready"):
                await asked(engine, REQUEST)
            first = await answered_by(engine)
            before = engine.last_piece
            (tmp_path / "slow").touch()
            waiting = asyncio.create_task(asked(engine, REQUEST))
            await until(lambda: engine.depth == 1)
            grandchild = int((tmp_path / "grandchild").read_text())
            os.kill(first, signal.SIGKILL)
            with pytest.raises((EngineUnavailable, EngineFailed)):
                await waiting
            (tmp_path / "slow").unlink()
            await until(lambda: len(starts(tmp_path)) == 2, 30)
            second = await answered_by(engine)
            assert second != first
            assert gone(grandchild)  # what a crashed engine leaves behind may hold a GPU
            assert engine.last_piece > before
            assert engine.failure is None
        assert gone(second)
        assert gone(int((tmp_path / "grandchild").read_text()))

    asyncio.run(main())


def test_a_process_that_hangs_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with supervised(tmp_path, hang_timeout=1.5, first=0.3) as engine:
            first = await answered_by(engine)
            (tmp_path / "hang").touch()
            with pytest.raises(EngineUnavailable, match="silent"):
                await asked(engine, REQUEST)
            await until(lambda: len(starts(tmp_path)) == 2, 30)
            (tmp_path / "hang").unlink()
            assert await answered_by(engine) == starts(tmp_path)[-1] != first
            assert gone(first)

    asyncio.run(main())


def test_a_process_that_lives_but_answers_nobody_counts_as_hung(tmp_path: Path) -> None:
    async def main() -> None:
        async with supervised(tmp_path, hang_timeout=1.5, first=0.3) as engine:
            await answered_by(engine)
            (tmp_path / "slow").touch()  # its health is good all the time
            with pytest.raises(EngineUnavailable, match="silent"):
                await asked(engine, REQUEST)
            await until(lambda: len(starts(tmp_path)) == 2, 30)

    asyncio.run(main())


def test_a_process_that_ends_too_often_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "broken").touch()
        async with supervised(tmp_path, restarts=2) as engine:
            await until(lambda: engine.failure is not None, 30)
            said = r"given up after 3 ends in 600 s.*exit code 1: error: the model is missing.*engine\.log"
            assert engine.failure is not None
            with pytest.raises(ServingError, match=said):
                raise engine.failure
            with pytest.raises(EngineUnavailable):
                await asked(engine, REQUEST)
        assert len(starts(tmp_path)) == 3

    asyncio.run(main())


def test_a_process_that_is_not_ready_in_time_is_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "hang").touch()
        async with supervised(tmp_path, start_timeout=1) as engine:
            await until(lambda: len(starts(tmp_path)) == 2, 30)
            assert not engine.ready

    asyncio.run(main())


def test_a_process_that_does_not_heed_sigterm_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "deaf").touch()
        async with supervised(tmp_path, drain=0.3) as engine:
            pid = await answered_by(engine)
        assert gone(pid)

    asyncio.run(main())


def test_nothing_outlives_a_gateway_that_is_killed(tmp_path: Path) -> None:
    code = "import asyncio, sys; from test_supervised import hold; asyncio.run(hold(sys.argv[1]))"
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    gateway = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": path})
    wait_for((tmp_path / "held").exists, 60)
    pids = [*starts(tmp_path), int((tmp_path / "grandchild").read_text())]
    assert len(pids) == 2
    gateway.kill()
    gateway.wait()
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), 10)


async def hold(folder: str) -> None:
    async with supervised(Path(folder)) as engine:
        await answered_by(engine)
        Path(folder, "held").touch()
        await asyncio.Event().wait()


def test_the_bundles_own_server_says_what_the_engine_inside_says(
    bundle: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    own = {"name": "transformers", "process": True}
    serve = Serve.model_validate({"engine": own, "others": {"inside": {"name": "transformers"}}, "drain_timeout": 5})

    others = set(psutil.Process().children(recursive=True))

    async def main() -> None:
        engines = made_all(serve, bundle, verify(bundle))
        assert list(engines) == ["engine", "inside"]
        engine, inside = engines.values()
        await engine.start()
        await inside.start()
        try:
            await until(lambda: engine.ready and inside.ready, 200)
            expected = await asked(inside, REQUEST)
            reply = await asked(engine, REQUEST)
            assert "".join(piece.text for piece in reply) == "".join(piece.text for piece in expected)
            assert (reply[-1].usage, reply[-1].finish_reason) == (expected[-1].usage, expected[-1].finish_reason)
            servers = set(psutil.Process().children(recursive=True)) - others
        finally:
            await engine.close()
            await inside.close()
        assert servers
        assert all(gone(server.pid) for server in servers)

    asyncio.run(main())
