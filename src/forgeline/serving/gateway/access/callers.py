"""Who asks: told by an API key or a token, slower the oftener an address fails."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge
from starlette.datastructures import Headers

from forgeline.config.schema.serve.access import Access as Settings
from forgeline.serving.gateway.access.failures import Failures
from forgeline.serving.gateway.access.keys import Keys
from forgeline.serving.gateway.access.refusal import Unauthenticated
from forgeline.serving.gateway.access.tokens import Tokens
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.store import Store

logger = logging.getLogger("forgeline.gateway")
NO_KEY = ["Bearer none"]  # official clients insist on a key; this is what they are given where there is none


class Access:
    """Tells who asks; belongs to one event loop, and is opened after the store."""

    def __init__(self, settings: Settings, store: Store, registry: CollectorRegistry) -> None:
        self.settings = settings
        self._keys = Keys(store, settings.refresh, settings.stale)
        self._tokens = Tokens(settings.oidc, store) if settings.oidc else None
        self._anonymous = Caller("anonymous", "anonymous", frozenset(settings.anonymous))
        self._failures = Failures()
        self.refused = Counter(
            "forgeline_access_refused", "Requests of those who may not, by reason.", ["reason"], registry=registry
        )
        Gauge("forgeline_access_keys_age_seconds", "Since keys were read.", registry=registry).set_function(
            lambda: self._keys.age
        )

    def open(self) -> None:
        """Read the keys, and begin to follow their changes; raises StoreFailed."""
        self._keys.open()

    def close(self) -> None:
        """Follow no longer."""
        self._keys.close()

    async def caller(self, headers: Headers, address: str) -> Caller:
        """Return who sends these headers from an address; the anonymous one without an Authorization header.

        Who sends one must be known by it, even where nobody need be.

        Raises:
            Unauthenticated: 401, later each time for an address that fails often.
            ApiError: 429 if too many such answers are held back, 503 if nobody can be told now.
        """
        given = headers.getlist("authorization")
        if given in ([], NO_KEY):
            return self._anonymous
        try:
            return await self._known(given)
        except Unauthenticated as refusal:
            logger.warning("refused %s: %s", address, refusal.code)
            await self._failures.hold_back(address)
            raise

    async def _known(self, given: list[str]) -> Caller:
        scheme, _, credential = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not credential.strip():
            raise Unauthenticated("Send one `Authorization: Bearer …` header.", "malformed_credentials")
        credential = credential.strip()
        if self._tokens is not None and not credential.startswith("fl_"):
            return await self._tokens.caller(credential)
        return self._keys.caller(credential)
