"""`forgeline rollout` against a running gateway, and the client behind it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from scene import free_port, wait_for
from trials import bundle, made
from typer.testing import CliRunner

from forgeline.cli import app as commands
from forgeline.cli import main, rollout
from forgeline.errors import ServingError
from forgeline.serving.operate import Operator
from forgeline.serving.order import Order
from forgeline.serving.sockets import listen

HELLO = [{"role": "user", "content": "Hello"}]
SAID = "We open at nine on Sunday."


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    app, _ = made(tmp_path, monkeypatch)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listen("127.0.0.1", port)]})
    thread.start()
    wait_for(lambda: server.started)
    yield Operator(f"http://127.0.0.1:{port}", "none", None)
    server.should_exit = True
    thread.join()


def test_a_version_is_started_shown_promoted_and_taken_back(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "_operator", lambda config, target: operator)
    serve = Order.read(tmp_path / "order.json").serve
    with pytest.raises(ServingError, match=r"the bundle says 'No\.'\. Version 1 is live, as before\."):
        operator.start(bundle(tmp_path, "2"), serve, [(HELLO, "No.")], 9, mode="canary", reason="a test")
    found = operator.start(bundle(tmp_path, "2"), serve, [(HELLO, SAID)], 9, mode="canary", reason="a test")
    assert found["rollout"]["state"] == "running"

    def says(*words: str) -> str:
        done = CliRunner().invoke(commands, ["rollout", *words])
        assert done.exit_code == 0, done.output
        return done.output

    shown = says("status")
    for words in ("live\tversion 1", "version 2 on transformers, canary 10%", "a test (anonymous)", "aborted at 20"):
        assert words in shown, shown
    assert "canary 50%" in says("share", "0.5", "--reason", "no worse so far")
    assert "warm\tversion 1" in says("promote", "--reason", "no worse")
    assert "live\tversion 1" in says("rollback", "--reason", "complaints")
    monkeypatch.setattr("sys.argv", ["forgeline", "rollout", "abort", "--reason", "none is on"])
    with pytest.raises(SystemExit):
        main()


def test_what_cannot_be_is_one_sentence(operator: Operator) -> None:
    with pytest.raises(ServingError, match=r"^There is no roll-out to promote: start one\.$"):
        operator.change("promote", reason="a test")
    nobody = Operator(f"http://127.0.0.1:{free_port()}", "none", None)
    with pytest.raises(ServingError, match="does not answer"):
        nobody.rollout()
