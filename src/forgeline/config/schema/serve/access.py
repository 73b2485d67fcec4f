"""Who may."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from forgeline.config.schema.section import Positive, Seconds, Section

Role = Literal["caller", "reviewer", "operator", "auditor", "admin"]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_HOST = ("*",)


class Tls(Section):
    """The certificate chain and its private key, as PEM files; `${env:NAME}` stands for the key's password."""

    certificate: str
    key: str
    password: str | None = None


class Oidc(Section):
    """Tokens of an identity provider: what they must say, and what their claims mean here.

    The provider's public keys come from `jwks`, an address, or `public_key`, a PEM file. Claims are named by a dotted
    path. `roles` maps what `roles_claim` may hold to roles; a value that is not mapped gives none. A token without
    `tenant_claim` is refused. With `single_use`, a token that has a `jti` is good for one request.
    """

    issuer: str
    audience: str
    jwks: str | None = None
    public_key: str | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = ("RS256", "ES256")
    leeway: Annotated[float, Field(ge=0, le=300)] = 30.0
    refetch: Seconds = 30.0  # at most one fetch of `jwks` in so many seconds, whatever key a token names
    timeout: Seconds = 5.0  # for one fetch
    stale: Seconds = 3600.0  # keys that could not be fetched anew for so long are no longer trusted
    roles_claim: str = "roles"
    roles: dict[str, tuple[Role, ...]]
    tenant_claim: str = "tenant"
    single_use: bool = False

    @model_validator(mode="after")
    def _has_one_source(self) -> Oidc:
        if (self.jwks is None) == (self.public_key is None):
            raise ValueError("give jwks, an address, or public_key, a file")
        if self.jwks is not None:
            address = urlsplit(self.jwks)
            if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
                raise ValueError("jwks must be an https address: whoever alters the keys on their way decides who may")
        return self


class Access(Section):
    """Who may ask what of the gateway; every route is closed to those without its role."""

    anonymous: tuple[Role, ...] = ()  # what those without a key or token may do; loopback only
    key_days: Positive = 90  # how long a new key is good, unless it is made with another bound
    refresh: Seconds = 2.0  # how often keys are read anew: how late a revocation may be honoured
    stale: Seconds = 600.0  # how long known keys are good while the database cannot be read
    oidc: Oidc | None = None
    tls: Tls | None = None
    behind_proxy: bool = False  # something in front ends TLS: listening beyond loopback without it is meant
    platform: bool = False  # a managed endpoint in front has told who may: opens /invocations and /ping for it
    hosts: tuple[str, ...] = LOOPBACK  # the names by which clients may call the server; * alone: the front knows
    origins: tuple[str, ...] = ()  # the pages of other hosts that may ask, such as https://desk.example

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", origin):
                raise ValueError(f"{origin!r} is not an origin: scheme://host[:port] in lower case, without a path")
        return origins

    @model_validator(mode="after")
    def _trusts_what_is_there(self) -> Access:
        if not self.behind_proxy and (self.platform or "*" in self.hosts):
            raise ValueError("platform, and * among hosts, are for a gateway with something in front: set behind_proxy")
        if "*" in self.hosts and self.hosts != ANY_HOST:
            raise ValueError("hosts: * stands alone, for any name")
        return self
