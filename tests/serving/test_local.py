"""The real server process: started, replaced, drained and stopped as a user would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from openai import APIError, InternalServerError, OpenAI
from scene import HELLO, LINEAGE, PROMPTS, free_port, wait_for

from forgeline.config import Config
from forgeline.config.schema import Serve
from forgeline.errors import ServingError
from forgeline.serving.bundle import build
from forgeline.serving.order import Order
from forgeline.serving.smoke import smoke
from forgeline.serving.targets.local import Deployment, deploy, status, stop


def passes(deployment: Deployment) -> None:
    smoke(deployment.url, deployment.model, PROMPTS, max_tokens=4)


@pytest.fixture
def other_bundle(config: Config, other_adapter: Path) -> Path:
    return build(config, other_adapter, {**LINEAGE, "version": "4"}, config.root / "bundles")


def test_deploy_update_and_drain(config: Config, bundle: Path, other_bundle: Path) -> None:
    root, seen = config.root, []

    def answers_but_fails(deployment: Deployment) -> None:
        passes(deployment)
        seen.append(deployment.version)
        raise ServingError("The smoke test failed.")

    assert status(root) is None
    assert stop(root) is None
    order = Order(bundle=bundle, serve=config.serve)
    first = deploy(root, order, passes)
    try:
        assert (first.version, first.url) == ("3", f"http://127.0.0.1:{config.serve.port}")
        assert deploy(root, order, answers_but_fails) == first  # it answers already: nothing is done
        with asked_all_the_time(first) as answers:
            with pytest.raises(ServingError, match=r"smoke test failed\.\nVersion 3 was not touched, and serves on"):
                deploy(root, Order(bundle=other_bundle, serve=config.serve), answers_but_fails)
            assert seen == ["4"]
            untouched = status(root)
            assert untouched is not None
            assert (untouched.deployment, untouched.health) == (first, "ready")
            assert {*answers} == {"3"}
            second = deploy(root, Order(bundle=other_bundle, serve=config.serve), passes)
            assert (second.version, second.pid) == ("4", first.pid)
            wait_for(lambda: "4" in answers)
        assert answers == sorted(answers)
        shut_down_during_a_stream(second)
    finally:
        stopped = stop(root)
    assert stopped is not None
    assert not stopped.killed
    assert status(root) is None


@contextmanager
def asked_all_the_time(deployment: Deployment) -> Iterator[list[str]]:
    """Ask on a connection that is kept; yield the version that answered each time, or what went wrong instead."""
    client = OpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0)
    answers: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                answer = client.chat.completions.with_raw_response.create(
                    model=deployment.model,
                    messages=HELLO,
                    max_tokens=2,  # type: ignore[arg-type]
                )
                answers.append(answer.headers["x-forgeline-version"])
            except APIError as fault:
                answers.append(repr(fault))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield answers
    finally:
        over.set()
        asking.join()


def shut_down_during_a_stream(deployment: Deployment) -> None:
    client = OpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0)
    question = {"model": deployment.model, "messages": HELLO, "max_tokens": 600, "temperature": 1.0, "seed": 3}
    stream = client.chat.completions.create(**question, stream=True)  # type: ignore[call-overload]
    next(stream)
    process = psutil.Process(deployment.pid)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: ready_status(deployment) == 503)
    with pytest.raises(InternalServerError, match="shutting down") as refused:
        client.chat.completions.create(**question)  # type: ignore[call-overload]
    assert refused.value.code == "draining"
    assert list(stream)[-1].choices[0].finish_reason in {"stop", "length"}
    assert process.wait(30) == 0


def test_a_stream_that_outlasts_the_drain_is_cut_off(config: Config, bundle: Path) -> None:
    hasty = config.serve.model_copy(update={"drain_timeout": 0.2})
    deployment = deploy(config.root, Order(bundle=bundle, serve=hasty), passes)
    client = OpenAI(base_url=f"{deployment.url}/v1", api_key="none", max_retries=0)
    question = {"model": deployment.model, "messages": HELLO, "max_tokens": 4000, "temperature": 1.0, "seed": 3}
    stream = client.chat.completions.create(**question, stream=True)  # type: ignore[call-overload]
    next(stream)
    process = psutil.Process(deployment.pid)
    process.terminate()
    assert process.wait(20) == 0
    with pytest.raises(APIError, match="shut down before the reply was complete"):
        list(stream)
    log = (config.root / ".forgeline" / "deployments" / "local.log").read_text()
    assert "1 requests are cut off" in log
    assert "Traceback" not in log
    stop(config.root)


def ready_status(deployment: Deployment) -> int:
    connection = HTTPConnection("127.0.0.1", int(deployment.url.rsplit(":", 1)[1]), timeout=10)
    connection.request("GET", "/readyz")
    return connection.getresponse().status


def serve(bundle: Path, root: Path, port: int) -> subprocess.CompletedProcess[str]:
    order = root / "order.json"
    Order(bundle=bundle, serve=Serve(port=port)).save(order)
    command = [sys.executable, "-m", "forgeline.serving.gateway", "--order", str(order)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_in_use_is_told_before_the_model_is_loaded(config: Config, bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(bundle, config.root, port)
        assert served.returncode == 1
        says = (
            f"Port {port} is in use by {psutil.Process().name()} (process {os.getpid()}): stop it, or set serve.port."
        )
        assert served.stderr == f"error: {says}\n"


def test_a_target_on_a_taken_port_starts_nothing(config: Config, bundle: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", config.serve.port)),
        pytest.raises(ServingError, match=f"Port {config.serve.port} is in use"),
    ):
        deploy(config.root, Order(bundle=bundle, serve=config.serve), passes)
    assert status(config.root) is None


def test_an_engine_that_cannot_load_ends_the_server_with_one_sentence(bundle: Path, tmp_path: Path) -> None:
    served = serve(bundle, tmp_path, free_port())  # the base model is not below this folder
    assert served.returncode == 1
    assert served.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in served.stderr


def test_a_deployment_waits_as_long_as_its_engine_may_take(
    config: Config, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forgeline.serving.targets.kept.READY_SECONDS", 1)
    engine = {"name": "transformers", "process": True, "supervision": {"start_timeout": 1.5}}
    serve = Serve.model_validate({**config.serve.model_dump(), "engine": engine})
    with pytest.raises(ServingError, match="was not ready in 3 s"):  # the base model is not there
        deploy(tmp_path, Order(bundle=bundle, serve=serve), passes)
    assert status(tmp_path) is None


def test_a_deployment_that_only_its_templates_could_answer_is_not_ready(
    config: Config, bundle: Path, tmp_path: Path
) -> None:
    ladder = {"rungs": ["engine", "template"], "templates": [{"text": "We are open from 9 to 5."}]}
    serve = Serve.model_validate({**config.serve.model_dump(), "ladder": ladder})
    with pytest.raises(ServingError, match=r"is given up: (?s:.*)cannot be loaded"):  # the base model is not there
        deploy(tmp_path, Order(bundle=bundle, serve=serve), passes)
    assert status(tmp_path) is None


def test_a_damaged_bundle_is_not_served(copied: Path, root: Path) -> None:
    (copied / "tuned" / "extra.pkl").write_bytes(b"")
    served = serve(copied, root, free_port())
    assert (served.returncode, len(served.stderr.splitlines())) == (1, 1)
    assert "extra.pkl may hold pickled code" in served.stderr


def test_a_recycled_process_number_is_never_ended(config: Config, bundle: Path) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    deployment = Deployment(
        pid=innocent.pid,
        created=psutil.Process(innocent.pid).create_time() - 60,
        url=f"http://127.0.0.1:{config.serve.port}",
        order=config.root / "order.json",
        bundle=bundle,
        digest="0" * 64,
        model="reply-writer",
        version="1",
        code="0" * 64,
        serve=config.serve,
        started_at="2026-01-01T00:00:00+00:00",
    )
    state = config.root / ".forgeline" / "deployments" / "local.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(deployment.model_dump_json())
    found = status(config.root)
    assert found is not None
    assert found.health == "gone"
    assert stop(config.root) is not None
    assert innocent.poll() is None
    innocent.communicate(b"\n")


def test_the_gateway_is_importable_without_torch() -> None:
    code = "import sys, forgeline.serving.gateway.__main__; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
