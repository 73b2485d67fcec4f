"""What the vendors ask of a container, of the real gateway: its two routes, its settings by variables, its signals."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from pydantic import ValidationError
from scene import HELLO, PROMPTS, free_port, wait_for

from forgeline.config import Config
from forgeline.config.schema.serve.access import Access
from forgeline.errors import ServingError
from forgeline.serving.bundle import verify
from forgeline.serving.contained import SCRATCH, prepared
from forgeline.serving.smoke import smoke
from forgeline.serving.targets import Job
from forgeline.serving.targets.clouds import sagemaker
from forgeline.serving.targets.clouds.relay import relay

sys.path.append(str(Path(__file__).parents[1] / "access"))
from house import House, gateway

QUESTION = {"model": "reply-writer", "messages": HELLO, "max_tokens": 1}
IMAGE = "registry.example.org/forgeline@sha256:" + "a" * 64
ASKED = {"region": "eu-central-1", "role": "arn:aws:iam::123456789012:role/serving", "instance_type": "ml.m5.xlarge"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("platform")
    with gateway(folder, behind_proxy=True, platform=True, hosts=["*"]) as served:
        yield served


def test_whom_the_platform_let_in_may_chat_and_nothing_else(house: House) -> None:
    assert house.ask("GET", "/ping").status == 200
    assert house.ask("POST", "/invocations", None, QUESTION, host="any.example").status == 200
    assert house.ask("POST", "/invocations", "the-platform-s-own-token", QUESTION).status == 200
    assert house.ask("GET", "/invocations").status in {403, 405}
    for method, path in [
        ("POST", "/v1/chat/completions"),
        ("GET", "/metrics"),
        ("GET", "/v1/status"),
        ("POST", "/ping"),
    ]:
        assert house.ask(method, path, None, QUESTION if method == "POST" else None).status in {401, 405}, path
    for path in ("/invocations/", "//invocations", "/invocations/../metrics", "/Invocations"):
        assert house.ask("POST", path, None, QUESTION).status == 401, path


def test_without_a_platform_there_are_no_such_routes(tmp_path: Path) -> None:
    with gateway(tmp_path) as served:
        assert {served.ask("GET", path).status for path in ("/ping", "/invocations")} == {401}
        assert served.ask("POST", "/invocations", None, QUESTION).status == 401
        assert served.ask("GET", "/metrics", None, None, host="any.example").status == 421


@pytest.mark.parametrize("access", [{"platform": True}, {"hosts": ["*"]}, {"behind_proxy": True, "hosts": ["*", "a"]}])
def test_a_gateway_with_nothing_in_front_trusts_nobody(access: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"set behind_proxy|stands alone"):
        Access.model_validate(access)


class Runtime(BaseHTTPRequestHandler):
    """SageMaker's runtime API: the body goes to /invocations, the reply comes back whole or in event-stream frames."""

    port = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            told = {"OriginalStatusCode": reply.status, "OriginalMessage": reply.read().decode(), "Message": "refused"}
            self._begin(424, "application/json", {"x-amzn-errortype": "ModelError"})
            self.wfile.write(json.dumps(told).encode())
        elif self.path.endswith("-response-stream"):
            self._begin(200, "application/vnd.amazon.eventstream")
            while chunk := reply.read1(4096):
                self.wfile.write(frame(chunk))
        else:
            self._begin(200, "application/json")
            self.wfile.write(reply.read())

    def _begin(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def frame(payload: bytes) -> bytes:
    """Return an event of AWS's event-stream encoding."""
    told = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in told.items()
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


@contextmanager
def runtime(port: int) -> Iterator[Any]:
    """Yield the SDK's client of an endpoint whose container listens on a port."""
    handler = type("Handler", (Runtime,), {"port": port})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield boto3.client(
                "sagemaker-runtime",
                region_name=ASKED["region"],
                endpoint_url=f"http://127.0.0.1:{server.server_port}",
                aws_access_key_id="testing",
                aws_secret_access_key="testing",  # noqa: S106
            )
        finally:
            server.shutdown()
            thread.join()


def environment(config: Config, bundle: Path, port: int) -> dict[str, str]:
    """Return the variables that SageMaker's plan gives a container, but for the port."""
    given = config.serve.model_dump(mode="json") | {"targets": {"pushed": IMAGE, "sagemaker": ASKED}}
    serve = type(config.serve).model_validate(given)
    job = Job(config.model_copy(update={"serve": serve}), bundle, verify(bundle), lambda url: None)
    model = json.loads(sagemaker.Sagemaker().plan(job).files["model.json"])
    told: dict[str, str] = model["PrimaryContainer"]["Environment"]
    return {**told, "FORGELINE_SETTINGS": told["FORGELINE_SETTINGS"].replace(":8080", f":{port}")}


def test_the_container_answers_as_sagemaker_asks(config: Config, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(config.root / "base")  # where an image has its base models
    port = free_port()
    told = environment(config, bundle, port)
    begin = (
        "from pathlib import Path; from forgeline.serving import contained as c; "
        f"c.BUNDLE, c.SCRATCH = Path({str(bundle)!r}), Path({str(tmp_path)!r}); c.main()"
    )
    command = [sys.executable, "-c", begin, "serve"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **told}, stdout=output, stderr=output)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)  # each question is worked on where the model is being loaded
        connection = HTTPConnection("127.0.0.1", port, timeout=15)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False

    try:
        wait_for(ready, 240)
        with runtime(port) as sdk:
            asked = lambda body, stream: sagemaker.invoke(sdk, "reply-writer", body, stream)  # noqa: E731
            with relay("reply-writer", asked) as url:
                report = smoke(url, "reply-writer", PROMPTS, max_tokens=8)
            assert report.completion_tokens
            with pytest.raises(ServingError, match=r"did not answer: .*max_tokens"):
                list(asked(json.dumps({**QUESTION, "max_tokens": 0}).encode(), False))
    finally:
        process.terminate()
        assert process.wait(60) == 0


class SignIn(BaseHTTPRequestHandler):
    """What may stand in front of an endpoint: it greets whoever asks with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Please sign in</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_an_endpoint_that_is_something_else_is_one_sentence() -> None:
    with (
        relay("reply-writer", lambda body, stream: iter([b"body"])) as url,
        pytest.raises(ServingError, match=r"smoke test of .* failed: .*The endpoint does not answer in JSON"),
    ):
        smoke(url, "reply-writer", PROMPTS, max_tokens=8)
    with ThreadingHTTPServer(("127.0.0.1", 0), SignIn) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            with pytest.raises(ServingError, match=r"smoke test of .* failed: .*received `text/html`"):
                smoke(f"http://127.0.0.1:{server.server_port}", "reply-writer", PROMPTS, max_tokens=8)
        finally:
            server.shutdown()


def test_an_image_of_another_bundle_does_not_start(config: Config, bundle: Path, tmp_path: Path) -> None:
    told = environment(config, bundle, 8080)
    assert prepared(told, bundle, tmp_path) == tmp_path / "order.json"
    with pytest.raises(ServingError, match=r"The image holds the bundle .* was to be deployed: build and push"):
        prepared({**told, "FORGELINE_DIGEST": "0" * 64}, bundle, tmp_path)
    with pytest.raises(ServingError, match=r"has no bundle in"):
        prepared(told, tmp_path / "none", tmp_path)
    with pytest.raises(ServingError, match=r"FORGELINE_SETTINGS is not serve.yaml as JSON"):
        prepared({**told, "FORGELINE_SETTINGS": '{"ports": 1}'}, bundle, tmp_path)


def test_public_keys_travel_as_variables(config: Config, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "team.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    signing = {"signing": {"trusted": ["team.pub"], "key": "${env:SIGNING_KEY}"}}
    serve = type(config.serve).model_validate(config.serve.model_dump(mode="json") | signing)
    told = environment(config.model_copy(update={"serve": serve, "root": tmp_path}), bundle, 8080)
    assert "SIGNING_KEY" not in json.dumps(told)  # what signs is of no use to who serves
    order = json.loads(prepared(told, bundle, tmp_path / "scratch").read_text())
    assert order["serve"]["signing"]["trusted"] == [str(SCRATCH / "FORGELINE_FILE_TRUSTED_0")]
    assert (tmp_path / "scratch" / "FORGELINE_FILE_TRUSTED_0").read_text().startswith("-----BEGIN")
