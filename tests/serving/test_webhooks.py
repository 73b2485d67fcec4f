from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from scene import wait_for

from forgeline.config.schema.serve.people import Webhooks as Settings
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import answer_errors
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.webhooks import Webhooks, router
from forgeline.serving.gateway.webhooks.reach import Unreachable, addresses_of

HERE = {"networks": ["127.0.0.0/8"], "backoff": 0.01, "timeout": 2, "tries": 3}


class Receiver(ThreadingHTTPServer):
    """Another system on this machine; `statuses` are its next answers, `got` what reached it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.got: list[tuple[dict[str, str], str]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.url = f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.got.append(({key.lower(): value for key, value in self.headers.items()}, body))
        self.server.hold.wait(10)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("location", self.server.url + "/elsewhere")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.hold.set()
        server.shutdown()


@contextmanager
def gateway(path: Path, **settings: Any) -> Iterator[tuple[TestClient, Webhooks]]:
    store = Store(f"sqlite:///{path / 'gateway.db'}")
    store.open()
    app = FastAPI()
    answer_errors(app)
    webhooks = Webhooks(Settings.model_validate({**HERE, **settings}), store, CollectorRegistry())

    @app.middleware("http")
    async def known(http: Request, answered: Callable[[Request], Awaitable[Response]]) -> Response:
        http.state.caller = Caller("key", http.headers.get("x-tenant", "shop"), frozenset({"operator"}))
        return await answered(http)

    app.include_router(router(webhooks))
    app.router.add_event_handler("startup", webhooks.start)
    app.router.add_event_handler("shutdown", webhooks.close)
    with TestClient(app) as client:
        yield client, webhooks
    store.close()


def subscribed(client: TestClient, url: str, *events: str, **headers: str) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": url, "events": events or ["batch.finished"]}, headers=headers)
    assert answer.status_code == 201, answer.text
    hook: dict[str, Any] = answer.json()
    return hook


def deliveries(client: TestClient, hook: dict[str, Any], state: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get(f"/v1/webhooks/{hook['id']}/deliveries", params={"state": state}).json()[
        "data"
    ]
    return listed


def test_an_event_reaches_those_who_asked_for_it_signed(tmp_path: Path, receiver: Receiver) -> None:
    with gateway(tmp_path) as (client, webhooks):
        hook = subscribed(client, receiver.url, "batch.finished", "engine.down")
        subscribed(client, receiver.url, "review.requested")
        subscribed(client, receiver.url, "batch.finished", **{"x-tenant": "other"})
        webhooks.send("batch.finished", {"batch": "ü-1"}, "shop")
        wait_for(lambda: len(receiver.got) == 1, 10)
        headers, body = receiver.got[0]
        assert json.loads(body)["type"] == "batch.finished" and json.loads(body)["data"] == {"batch": "ü-1"}
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 10
        key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
        expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}" and len(key) == 32
        (delivered,) = wait_for(lambda: deliveries(client, hook, "delivered"), 10)
        assert (delivered["id"], delivered["tries"], delivered["fault"]) == (headers["webhook-id"], 1, None)
        webhooks.send("engine.down", {"engine": "transformers"})
        wait_for(lambda: len(receiver.got) == 2, 10)


def test_a_failed_delivery_is_tried_again_then_given_up_and_can_be_sent_anew(
    tmp_path: Path, receiver: Receiver
) -> None:
    with gateway(tmp_path) as (client, webhooks):
        hook = subscribed(client, receiver.url)
        receiver.statuses = [500, 302]  # a redirection is not followed
        webhooks.send("batch.finished", {}, "shop")
        (delivered,) = wait_for(lambda: deliveries(client, hook, "delivered"), 10)
        assert delivered["tries"] == 3 and len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        receiver.statuses = [503] * 3
        webhooks.send("batch.finished", {}, "shop")
        (dead,) = wait_for(lambda: deliveries(client, hook, "dead"), 10)
        assert (dead["tries"], dead["fault"]) == (3, "It answered 503.")
        again = f"/v1/webhooks/{hook['id']}/deliveries/{dead['id']}/retry"
        assert client.post(again).status_code == 202
        wait_for(lambda: not deliveries(client, hook, "dead"), 10)
        assert client.post(again).status_code == 404


def test_what_waits_survives_a_restart_and_a_hung_receiver_delays_nobody(tmp_path: Path, receiver: Receiver) -> None:
    with gateway(tmp_path, timeout=1) as (client, webhooks):
        hook = subscribed(client, receiver.url)
        receiver.hold.clear()
        webhooks.send("batch.finished", {"n": 1}, "shop")
        wait_for(lambda: receiver.got, 10)
        with Receiver() as other:
            threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            subscribed(client, other.url, "feedback.received")
            began = time.perf_counter()
            webhooks.send("feedback.received", {}, "shop")
            assert time.perf_counter() - began < 0.05
            wait_for(lambda: other.got, 10)
            other.shutdown()
        webhooks.send("batch.finished", {"n": 2}, "shop")
    receiver.hold.set()
    with gateway(tmp_path, timeout=0.1) as (client, webhooks):  # what was under way is tried again after its lease
        wait_for(lambda: len(deliveries(client, hook, "delivered")) == 2, 10)
    assert sorted({json.loads(body)["data"]["n"] for _, body in receiver.got}) == [1, 2]


NOT_PUBLIC = "not at a public address"
REFUSED = {
    "http://example.invalid/x": "is not known",
    "http://8.8.8.8/": "must begin with https",
    "ftp://8.8.8.8/x": "must be https",
    "https://user:hunter2@8.8.8.8/": "without a user name",
    "https://10.0.0.1/": NOT_PUBLIC,
    "https://169.254.169.254/latest/meta-data": NOT_PUBLIC,
    "https://0.0.0.0/": NOT_PUBLIC,
    "https://224.0.0.1/": NOT_PUBLIC,
    "https://0xa000001/": NOT_PUBLIC,  # 10.0.0.1 written another way
    "https://[::1]/": NOT_PUBLIC,
    "https://[::ffff:10.0.0.1]/": NOT_PUBLIC,
    "https://[64:ff9b::a00:1]/": NOT_PUBLIC,
    "https://[2002:a00:1::]/": NOT_PUBLIC,
    "https://": "must be https",
    "https://xn--..": "is not known",
    "https://[fe80::1%25eth0]ü]": "is no name",
    "not a url": "must be https",
}


def test_only_public_addresses_are_called(tmp_path: Path) -> None:
    with gateway(tmp_path) as (client, _):
        for url, message in REFUSED.items():
            answer = client.post("/v1/webhooks", json={"url": url, "events": ["engine.down"]})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_url", "url")
            assert message in error["message"] and "hunter2" not in error["message"], (url, error["message"])


def test_loopback_is_closed_unless_the_settings_open_it() -> None:
    for url in ("http://127.0.0.1/", "https://127.0.0.1/", "https://localhost/"):
        with pytest.raises(Unreachable, match="not at a public address"):
            asyncio.run(addresses_of(httpx2.URL(url), ()))


def test_a_receiver_must_prove_its_name_though_its_address_is_called(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = tmp_path / "receiver.pem"
    pem.write_bytes(certificate("localhost"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    receiver.socket = tls.wrap_socket(receiver.socket, server_side=True)
    address = receiver.url.replace("http:", "https:")
    settings = {"tries": 1, "networks": ["127.0.0.0/8", "::1/128"]}
    with gateway(tmp_path, **settings) as (client, webhooks):
        hook = subscribed(client, address)
        webhooks.send("batch.finished", {}, "shop")
        (dead,) = wait_for(lambda: deliveries(client, hook, "dead"), 10)
        assert "certificate verify failed" in dead["fault"] and not receiver.got
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    with gateway(tmp_path, **settings) as (client, webhooks):
        named = subscribed(client, address.replace("127.0.0.1", "localhost"))
        webhooks.send("batch.finished", {}, "shop")
        wait_for(lambda: deliveries(client, named, "delivered"), 10)
        assert receiver.got[0][0]["host"] == f"localhost:{receiver.server_port}"
        wait_for(lambda: len(deliveries(client, hook, "dead")) == 2, 10)
        assert "127.0.0.1" in deliveries(client, hook, "dead")[0]["fault"]


def certificate(name: str) -> bytes:
    """Return a self-signed certificate of a name, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    signed = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    return signed + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def test_a_tenant_sees_and_changes_its_own_only(tmp_path: Path, receiver: Receiver) -> None:
    with gateway(tmp_path, max_subscriptions=2) as (client, webhooks):
        hook = subscribed(client, receiver.url)
        path, other = f"/v1/webhooks/{hook['id']}", {"x-tenant": "other"}
        assert "secret" in hook and "secret" not in client.get(path).json()
        assert [listed["id"] for listed in client.get("/v1/webhooks").json()["data"]] == [hook["id"]]
        assert client.get("/v1/webhooks", headers=other).json()["data"] == []
        change = {"url": receiver.url, "events": ["feedback.received"]}
        for method, where in (("GET", path), ("PUT", path), ("DELETE", path), ("GET", f"{path}/deliveries")):
            answer = client.request(method, where, headers=other, json=change if method == "PUT" else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert client.put(path, json=change).json()["events"] == ["feedback.received"]
        webhooks.send("feedback.received", {}, "shop")
        wait_for(lambda: receiver.got, 10)
        subscribed(client, receiver.url)
        full = client.post("/v1/webhooks", json=change)
        assert (full.status_code, full.json()["error"]["code"]) == (400, "too_many_webhooks")
        assert client.delete(path).json() == {"id": hook["id"], "object": "webhook.deleted", "deleted": True}
        assert client.get(path).status_code == 404
        for body in ({"url": receiver.url, "events": ["made.up"]}, {"url": receiver.url, "events": []}, {}):
            assert client.post("/v1/webhooks", json=body).status_code == 400
