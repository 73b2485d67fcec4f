"""Tokens of an identity provider, which publishes its keys on loopback."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from forgeline.config.schema.serve.access import Oidc
from forgeline.errors import ServingError
from forgeline.serving.gateway.access import tokens
from forgeline.serving.gateway.access.tokens import Tokens
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505
CURVE = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Provider:
    """Publishes `keys`; counts how often it was asked."""

    url: str
    keys: list[dict[str, Any]]
    asked: int = 0
    body: bytes | None = None
    hold: threading.Event | None = None


@pytest.fixture
def provider() -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.asked += 1
            if published.hold:
                published.hold.wait(20)
            body = published.body or json.dumps({"keys": published.keys}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            pass

    published = Provider("", [jwk(KEY, "one"), jwk(SHORT, "short"), jwk(CURVE, "curve")])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        published.url = f"http://127.0.0.1:{server.server_port}/keys"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield published
        if published.hold:
            published.hold.set()
        server.shutdown()
        thread.join()


def jwk(key: Any, id_: str) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": id_, "use": "sig"}


def oidc(**settings: Any) -> Oidc:
    given = {
        "issuer": "https://id.example",
        "audience": "forgeline",
        "roles": {"staff": ["caller"], "ops": ["operator"]},
    }
    return Oidc.model_validate(given | settings)


def token(key: Any = KEY, kid: str | None = "one", algorithm: str = "RS256", **claims: Any) -> str:
    now = time.time()
    said = {"iss": "https://id.example", "aud": "forgeline", "sub": "anna", "tenant": "shop", "roles": ["staff"]}
    all_ = {**said, "iat": int(now), "exp": int(now) + 300, **claims}
    named = {"kid": kid} if kid else {}
    return jwt.encode({k: v for k, v in all_.items() if v is not None}, key, algorithm, headers=named)


async def code(known: Tokens, text: str) -> str:
    """Return the reason for which a token is refused, or nothing."""
    try:
        await known.caller(text)
    except ApiError as refusal:
        return f"{refusal.status_code} {refusal.code}"
    return ""


def ran(work: Callable[[], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        return await work()

    return asyncio.run(inside())


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def as_hmac(text: str) -> str:
    """Return a token signed with the public key as if that were an HMAC secret."""
    body = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'one'})}.{text.split('.')[1]}"
    return f"{body}.{segment(hmac.digest(PEM, body.encode(), 'sha256'))}"


def test_a_good_token_says_who_asks(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url), store)

    async def work() -> None:
        expected = Caller("oidc:anna", "shop", frozenset({"caller"}))
        assert await known.caller(token()) == expected
        assert await known.caller(token(CURVE, "curve", "ES256")) == expected
        assert await known.caller(token(aud=["other", "forgeline"])) == expected
        assert (await known.caller(token(roles=["ops", "strangers", 7]))).roles == {"operator"}
        assert (await known.caller(token(roles="staff ops"))).roles == {"caller", "operator"}
        assert (await known.caller(token(roles=None))).roles == frozenset()
        assert await code(known, token(exp=int(time.time()) - 5)) == ""  # within the leeway
        assert provider.asked == 1

    ran(work)


def bad_tokens() -> dict[str, str]:
    now, good = int(time.time()), token()
    header, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    return {
        "expired": token(exp=now - 60),
        "not yet": token(nbf=now + 60),
        "issued in the future": token(iat=now + 60),
        "without an end": token(exp=None),
        "without a subject": token(sub=None),
        "wrong issuer": token(iss="https://evil.example"),
        "wrong audience": token(aud="billing"),
        "without an audience": token(aud=None),
        "without a tenant": token(tenant=None),
        "tenant not text": token(tenant={"a": 1}),
        "forged signature": token(OTHER),
        "another body": f"{header}.{segment({**claims, 'roles': ['ops']})}.{signature}",
        "no signature": f"{header}.{body}.",
        "alg none": f"{segment({'alg': 'none'})}.{segment(claims)}.",
        "alg nOnE": f"{segment({'alg': 'nOnE', 'kid': 'one'})}.{segment(claims)}.{signature}",
        "HMAC with the public key": as_hmac(good),
        "an algorithm that is not pinned": token(algorithm="RS512"),
        "a curve's key for RSA": token(kid="curve"),
        "a short key": token(SHORT, "short"),
        "unknown key": token(OTHER, "two"),
        "no key named": token(kid=None),
        "key named by a list": f"{segment({'alg': 'RS256', 'kid': ['one']})}.{body}.{signature}",
        "unknown critical header": jwt.encode(claims, KEY, "RS256", headers={"kid": "one", "crit": ["x"], "x": 1}),
        "nested header": f"{segment(b'[' * 3000)}.{body}.{signature}",
        "header is no object": f"{segment([1])}.{body}.{signature}",
        "not base64": "a.b.c",
        "two parts": "a.b",
        "too long": token(padding="x" * 9000),
        "null byte": f"{header}\x00.{body}.{signature}",
    }


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_what_is_not_a_good_token_is_refused(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url), store)

    async def work() -> None:
        told = {name: await code(known, text) for name, text in bad_tokens().items()}
        assert told.pop("expired") == "401 expired_token"
        assert set(told.values()) == {"401 invalid_token"}, told
        assert await code(known, token()) == ""

    ran(work)


def test_a_storm_of_unknown_keys_asks_the_provider_once(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url), store)

    async def work() -> None:
        storm = [code(known, token(OTHER, f"key-{number}")) for number in range(200)]
        assert set(await asyncio.gather(*storm)) == {"401 invalid_token"}
        assert provider.asked == 1
        assert await code(known, token()) == ""

    ran(work)


def test_a_new_key_is_fetched_when_it_is_first_named(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url, refetch=0.001), store)

    async def work() -> None:
        assert await code(known, token()) == ""
        provider.keys = [jwk(OTHER, "two")]
        assert await code(known, token(OTHER, "two")) == ""
        assert await code(known, token()) == "401 invalid_token"  # it is published no more

    ran(work)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"keys": 3}', b'{"keys": []}', b"\xff", b"[" * 5000, b"x" * 1_000_001])
def test_a_provider_that_says_nonsense_opens_nothing(provider: Provider, store: Store, body: bytes) -> None:
    known = Tokens(oidc(jwks=provider.url), store)
    provider.body = body
    assert ran(lambda: code(known, token())) == "503 keys_unavailable"


def test_a_provider_that_hangs_holds_nobody_whose_key_is_known(
    provider: Provider, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Tokens(oidc(jwks=provider.url, timeout=0.2, refetch=0.001), store)

    async def work() -> None:
        assert await code(known, token()) == ""
        provider.hold = threading.Event()
        monkeypatch.setattr(tokens, "RENEW_SECONDS", 0)
        began = time.perf_counter()
        assert await code(known, token()) == ""
        assert time.perf_counter() - began < 0.15
        assert await code(known, token(OTHER, "two")) == "401 invalid_token"  # after the fetch timed out
        assert time.perf_counter() - began < 5

    ran(work)


def test_keys_that_cannot_be_fetched_anew_are_not_trusted_for_ever(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url, stale=0.05, refetch=0.001), store)

    async def work() -> None:
        assert await code(known, token()) == ""
        provider.body = b"{"
        await asyncio.sleep(0.06)
        assert await code(known, token()) == "503 keys_unavailable"

    ran(work)


def test_a_token_for_one_use_is_used_once(provider: Provider, store: Store) -> None:
    known = Tokens(oidc(jwks=provider.url, single_use=True), store)
    other_gateway = Tokens(oidc(jwks=provider.url, single_use=True), store)

    async def work() -> None:
        once = token(jti="1")
        told = await asyncio.gather(*(code(known, once) for _ in range(20)))
        assert sorted(told) == ["", *["401 replayed_token"] * 19]
        assert await code(other_gateway, once) == "401 replayed_token"
        assert await code(known, token(jti="2")) == ""
        assert [await code(known, token()) for _ in range(2)] == ["", ""]  # it carries no jti
        assert await code(known, token(OTHER, jti="3")) == "401 invalid_token"
        assert await code(known, token(jti="3")) == ""  # a forged one uses up nothing

    ran(work)


def test_a_single_use_that_cannot_be_noted_is_refused(
    provider: Provider, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "USE_SECONDS", 0.1)
    known, held = Tokens(oidc(jwks=provider.url, single_use=True), store), threading.Event()
    store.do(lambda connection: held.wait(20))
    assert ran(lambda: code(known, token(jti="1"))) == "503 keys_unavailable"
    held.set()
    assert ran(lambda: code(known, token(jti="2"))) == ""  # the database takes writes as before
    assert ran(lambda: code(known, token(jti="1"))) == "401 replayed_token"  # what was queued was written


def test_a_public_key_of_ones_own(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "issuer.pem"
    path.write_bytes(PEM)
    known = Tokens(oidc(public_key=str(path), roles_claim="realm.roles", tenant_claim="org"), store)
    claims = {"realm": {"roles": ["ops"]}, "org": "shop"}
    assert ran(lambda: known.caller(token(**claims))) == Caller("oidc:anna", "shop", frozenset({"operator"}))
    assert ran(lambda: code(known, as_hmac(token(**claims)))) == "401 invalid_token"
    assert ran(lambda: code(known, token(CURVE, algorithm="ES256", **claims))) == "401 invalid_token"
    path.write_text("nonsense")
    with pytest.raises(ServingError, match=r"issuer\.pem is no PEM public key"):
        Tokens(oidc(public_key=str(path)), store)


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["RS256", "ES256", "HS256", "none", "", None, 1]),
        "kid": st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text())),
        "crit": st.lists(st.text(max_size=3)),
        "b64": st.booleans(),
        "jwk": st.just(jwk(OTHER, "mine")),  # a key that the token brings along
        "zip": st.just("DEF"),
    },
)
JSON = st.recursive(
    st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(header=st.one_of(HEADERS, JSON), body=st.one_of(JSON, st.binary()), tail=st.binary())
def test_nothing_made_up_gets_in(header: Any, body: Any, tail: bytes) -> None:
    signed = f"{segment(header)}.{segment(body)}"
    by_another = OTHER.sign(signed.encode(), PKCS1v15(), SHA256())

    async def work() -> None:
        for signature in (tail, by_another):
            assert await code(pinned, f"{signed}.{segment(signature)}") == "401 invalid_token"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "issuer.pem"
        path.write_bytes(PEM)
        pinned = Tokens(oidc(public_key=str(path)), Store("sqlite://"))
        ran(work)


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"jwks": "http://id.example/keys"}, "must be an https address"),
        ({"jwks": "file:///etc/keys"}, "must be an https address"),
        ({}, "give jwks, an address, or public_key, a file"),
        ({"public_key": "a", "jwks": "https://id.example/keys"}, "give jwks"),
        ({"public_key": "a", "algorithms": ["HS256"]}, "Input should be 'RS256'"),
        ({"public_key": "a", "algorithms": ["none"]}, "Input should be 'RS256'"),
        ({"public_key": "a", "algorithms": []}, "at least 1 item"),
        ({"public_key": "a", "roles": {"x": ["root"]}}, "Input should be 'caller'"),
    ],
)
def test_settings_that_would_let_anybody_in_are_refused(settings_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        oidc(**settings_)
