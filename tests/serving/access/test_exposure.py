"""TLS, the server's name, other pages, and what every response says to browsers."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from house import House, gateway
from pydantic import ValidationError
from scene import HELLO

from forgeline.config.schema import Serve
from forgeline.config.schema.serve.access import Access, Tls
from forgeline.errors import ForgelineError, ServingError
from forgeline.serving.gateway.access.tls import check_exposure, pinned, server_context
from forgeline.serving.smoke import smoke

DESK = "https://desk.example"
WORD = "${env:TLS_WORD}"
CRASH = {"model": "reply-writer", "messages": [{"role": "user", "content": "crash"}]}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for loopback, signed by itself, and its encrypted key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    for file, encryption in (("key.pem", BestAvailableEncryption(b"a word")), ("bare.pem", NoEncryption())):
        (folder / file).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        (folder / file).chmod(0o600)
    return Tls(certificate=str(folder / "certificate.pem"), key=str(folder / "key.pem"), password=WORD)


def test_tls_is_served_and_verified(certified: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLS_WORD", "a word")
    trusting = ssl.create_default_context(cafile=certified.certificate)
    with gateway(tmp_path, tls=certified.model_dump(), anonymous=["caller"]) as house:
        connection = HTTPSConnection("127.0.0.1", house.port, context=trusting, timeout=30)
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("strict-transport-security")) == (200, "max-age=31536000")
        connection.close()
        smoke(f"https://127.0.0.1:{house.port}", "reply-writer", [HELLO], 2, tls=certified)
        with pytest.raises(ServingError, match="Connection error"):  # a client that trusts the usual authorities
            smoke(f"https://127.0.0.1:{house.port}", "reply-writer", [HELLO], 2)
        with pytest.raises(ServingError, match="failed"):
            smoke(f"http://127.0.0.1:{house.port}", "reply-writer", [HELLO], 2)
        old = pinned(certified)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", house.port)) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw)
        with socket.create_connection(("127.0.0.1", house.port)) as raw, pinned(certified).wrap_socket(raw) as safe:
            assert safe.version() in {"TLSv1.2", "TLSv1.3"}


def test_a_key_that_others_can_read_or_that_does_not_fit_is_refused(
    certified: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**change: Any) -> str:
        with pytest.raises(ForgelineError) as fault:
            server_context(certified.model_copy(update=change))
        return str(fault.value)

    bare = tmp_path / "bare.pem"
    bare.write_bytes(Path(certified.key).with_name("bare.pem").read_bytes())
    bare.chmod(0o640)
    assert server_context(certified.model_copy(update={"key": str(bare), "password": None}))
    for mode in (0o644, 0o604, 0o660, 0o602):
        bare.chmod(mode)
        assert f"others can read or change {bare} (mode {mode:o}): chmod 600" in refused(key=str(bare), password=None)
    monkeypatch.setenv("TLS_WORD", "another word")
    assert "or the password is wrong" in refused()
    assert "or the password is wrong" in refused(password=None)  # nobody is asked for it
    monkeypatch.delenv("TLS_WORD")
    assert "TLS_WORD is not set" in refused()
    assert "No such file" in refused(key=str(tmp_path / "none.pem"))
    monkeypatch.setenv("TLS_WORD", "a word")
    assert "are not a certificate and its key" in refused(certificate=certified.key)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gateway.example"])  # noqa: S104
def test_the_network_is_not_listened_to_without_tls(host: str, certified: Tls) -> None:
    def serve(**access: Any) -> Serve:
        return Serve(host=host, access=Access(**access))

    with pytest.raises(ServingError, match=rf"serve\.host is {host}: others on the network could read keys"):
        check_exposure(serve())
    with pytest.raises(ServingError, match="anonymous is for loopback only"):
        check_exposure(serve(behind_proxy=True, anonymous=("caller",)))
    check_exposure(serve(behind_proxy=True))
    check_exposure(serve(tls=certified))
    for local in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        check_exposure(Serve(host=local, access=Access(anonymous=("admin",))))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway that pages of another host may ask, and that goes by a name of its own."""
    hosts = ["gateway.example"]  # its address needs no name: a cluster asks by it
    with gateway(tmp_path_factory.mktemp("desk"), origins=[DESK], hosts=hosts, anonymous=["caller"]) as served:
        yield served


def test_every_response_has_its_headers(desk: House) -> None:
    asked = {
        200: desk.ask("GET", "/v1/models"),
        401: desk.ask("GET", "/v1/models", "fl_wrong"),
        403: desk.ask("GET", "/metrics"),
        404: desk.ask("GET", "/nowhere"),
        413: desk.ask("POST", "/v1/chat/completions", None, "x" * 1_000_001),
        500: desk.ask("POST", "/v1/chat/completions", None, CRASH),
    }
    for status, answer in asked.items():
        assert answer.status == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers and "strict-transport-security" not in answer.headers
    page = desk.ask("GET", "/").headers  # there is none here, and its headers are there already
    assert "script-src 'self'" in page["content-security-policy"]
    assert "unsafe" not in page["content-security-policy"]
    assert "frame-ancestors 'none'" in page["content-security-policy"]
    assert page["cache-control"] == "no-cache"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost", "", "[", "127.0.0.2", "a b"])
def test_another_name_is_refused(desk: House, host: str) -> None:
    answer = desk.ask("GET", "/v1/models", host=host)
    assert answer.status in {400, 421}
    assert desk.ask("GET", "/healthz", host=host).status in {200, 400}  # an orchestrator asks by address


def test_its_own_names_are_known(desk: House) -> None:
    for host in ("gateway.example", "GATEWAY.example:443", f"127.0.0.1:{desk.port}"):
        assert desk.ask("GET", "/v1/models", host=host).status == 200


def test_pages_of_other_hosts_may_ask_only_if_listed(desk: House) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://desk.example",
        f"{DESK}.evil.example",
        "https://DESK.example",
    ):
        answer = desk.ask("GET", "/v1/models", origin=origin)
        assert (answer.status, answer.code) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
        assert desk.ask("OPTIONS", "/v1/models", origin=origin, access_control_request_method="GET").status == 403
    own = desk.ask("GET", "/v1/models", origin=f"http://127.0.0.1:{desk.port}")
    assert (own.status, own.headers["vary"]) == (200, "origin")
    for path, status in (("/v1/models", 200), ("/nowhere", 404)):
        listed = desk.ask("GET", path, origin=DESK)
        assert (listed.status, listed.headers["access-control-allow-origin"]) == (status, DESK)
        assert "access-control-allow-credentials" not in listed.headers
    preflight = desk.ask("OPTIONS", "/v1/models", origin=DESK, access_control_request_method="POST")
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (204, DESK)
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "PUT" in preflight.headers["access-control-allow-methods"]  # a webhook is changed by it


def test_nobody_names_an_address_for_the_server(desk: House, caplog: pytest.LogCaptureFixture) -> None:
    desk.ask("GET", "/v1/models", "fl_wrong", x_forwarded_for="203.0.113.9", x_forwarded_proto="https")
    assert "refused 127.0.0.1" in caplog.text and "203.0.113.9" not in caplog.text


@pytest.mark.parametrize("origin", ["*", "desk.example", "https://desk.example/", "https://Desk.example", "null"])
def test_what_is_no_origin_is_refused_in_the_settings(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Access(origins=(origin,))
