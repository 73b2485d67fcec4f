"""Tokens of an identity provider (OpenID Connect): JWTs signed with a key whose public half is known here.

Sources: RFC 7519 (JWT), RFC 7517 (JWK), RFC 8725 (what to refuse). Only asymmetric algorithms can be configured, and a
key verifies with its own algorithm alone, so neither `none` nor a public key taken for an HMAC secret gets anywhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from sqlalchemy import Column, Connection, Float, String, Table, delete, insert
from sqlalchemy.exc import IntegrityError

from forgeline.config.schema.serve.access import Oidc
from forgeline.errors import ServingError
from forgeline.serving.gateway.access.refusal import Unauthenticated
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import METADATA, Store, StoreFailed

logger = logging.getLogger("forgeline.gateway")
USED = Table(
    "used_tokens",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("expires_at", Float, nullable=False, index=True),
)
LONGEST = 8192  # characters
MAX_JWKS = 1_000_000  # bytes
RENEW_SECONDS = 300.0  # how old fetched keys may be before they are fetched anew
USE_SECONDS = 2.0  # how long the database may take to note a single use
NEEDED = ["exp", "iat", "iss", "aud", "sub"]
VerifyingKey = Any  # a jwt.PyJWK, or a public key as PyJWT takes it


class Jwks:
    """A provider's public keys by their ids, fetched when a token names one that is not known, and every few minutes.

    However many tokens name unknown keys, there is one fetch in `refetch` seconds. Belongs to one event loop.
    """

    def __init__(self, oidc: Oidc) -> None:
        self._oidc = oidc
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def key(self, id_: str | None) -> VerifyingKey:
        """Return a key; raises Unauthenticated if the provider has none of that id, ApiError if it cannot be asked."""
        age = time.monotonic() - self._fetched_at
        if id_ not in self._keys or age > self._oidc.stale:
            await asyncio.shield(self._begun())
        elif age > RENEW_SECONDS:
            self._begun()
        if time.monotonic() - self._fetched_at > self._oidc.stale:
            raise ApiError(503, "The identity provider's keys cannot be fetched.", "keys_unavailable", retry_after=5)
        if id_ not in self._keys:
            raise Unauthenticated("The token is signed with a key that the issuer does not publish.", "invalid_token")
        return self._keys[id_]

    def _begun(self) -> asyncio.Task[None]:
        """Return the last fetch, or a new one if that is long enough ago."""
        now = time.monotonic()
        if self._fetch is None or (self._fetch.done() and now - self._tried_at >= self._oidc.refetch):
            self._tried_at = now
            self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> None:
        import httpx2

        try:
            async with (
                asyncio.timeout(self._oidc.timeout),
                httpx2.AsyncClient() as client,
                client.stream("GET", str(self._oidc.jwks)) as answer,
            ):
                answer.raise_for_status()
                body = b""
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MAX_JWKS:
                        raise ValueError(f"it is larger than {MAX_JWKS} bytes")
            published = jwt.PyJWKSet.from_json(body.decode())
        except (httpx2.HTTPError, jwt.PyJWTError, ValueError, AttributeError, RecursionError, TimeoutError) as fault:
            logger.warning("%s cannot be used: %s", self._oidc.jwks, fault or "it took too long")
            return
        self._keys = {key.key_id: key for key in published.keys if key.algorithm_name in self._oidc.algorithms}
        self._fetched_at = time.monotonic()


class Tokens:
    """Tells who has a token."""

    def __init__(self, oidc: Oidc, store: Store) -> None:
        self._oidc = oidc
        self._store = store
        self._jwks = Jwks(oidc) if oidc.jwks else None
        self._public = _public_key(oidc) if oidc.public_key else None

    async def caller(self, text: str) -> Caller:
        """Return who has a token.

        Raises:
            Unauthenticated: for a token that is forged, expired, not yet valid, for somebody else, or used before.
            ApiError: 503 if its signature or its first use cannot be checked now.
        """
        claims = await self._claims(text)
        tenant = _at(claims, self._oidc.tenant_claim)
        if not isinstance(tenant, str) or not tenant:
            raise Unauthenticated(f"The token has no {self._oidc.tenant_claim}.", "invalid_token")
        if self._oidc.single_use and "jti" in claims:
            await self._use(claims)
        held = _at(claims, self._oidc.roles_claim)
        names = held.split() if isinstance(held, str) else held if isinstance(held, list) else []
        roles = [role for name in names if isinstance(name, str) for role in self._oidc.roles.get(name, ())]
        return Caller(f"oidc:{claims['sub']}", tenant, frozenset(roles))

    async def _claims(self, text: str) -> dict[str, Any]:
        if len(text) > LONGEST:
            raise Unauthenticated("The token is too long.", "invalid_token")
        try:
            named = jwt.get_unverified_header(text).get("kid")
            key: VerifyingKey = await self._jwks.key(named) if self._jwks else self._public
            return jwt.decode(
                text,
                key,
                algorithms=list(self._oidc.algorithms),
                issuer=self._oidc.issuer,
                audience=self._oidc.audience,
                leeway=self._oidc.leeway,
                options={"require": NEEDED, "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired.", "expired_token") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as fault:
            # PyJWT's sentence may quote the token's claims, which before the signature is checked are anybody's.
            logger.info("a token was refused: %s", type(fault).__name__)
            raise Unauthenticated("The token is not valid here.", "invalid_token") from None

    async def _use(self, claims: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(f"{claims['iss']}\n{claims['jti']}".encode()).hexdigest()
        expires_at = float(claims["exp"]) + self._oidc.leeway

        def note(connection: Connection) -> None:
            connection.execute(delete(USED).where(USED.c.expires_at < time.time()))
            connection.execute(insert(USED).values(digest=digest, expires_at=expires_at))

        try:
            async with asyncio.timeout(USE_SECONDS):
                await asyncio.wrap_future(self._store.do(note))
        except IntegrityError:
            raise Unauthenticated("The token was used before; get another.", "replayed_token") from None
        except (TimeoutError, StoreFailed):
            message = "Whether the token was used before cannot be told now."
            raise ApiError(503, message, "keys_unavailable", retry_after=5) from None


def _public_key(oidc: Oidc) -> VerifyingKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return load_pem_public_key(Path(str(oidc.public_key)).read_bytes())
    except (OSError, ValueError) as fault:
        raise ServingError(f"access.oidc.public_key: {oidc.public_key} is no PEM public key ({fault}).") from fault


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """Return what lies at a dotted path, such as `realm_access.roles`."""
    value: Any = claims
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
