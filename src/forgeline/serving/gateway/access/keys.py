"""API keys: `fl_<id>_<secret>`, of which the database knows the id and a hash of the secret.

The secret is 256 random bits, so a plain SHA-256 is enough: a slow hash makes guessing dear where there is something
to guess, as in a password, and would cost every request what it costs an attacker.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import JSON, Column, Float, RowMapping, String, Table, select, update
from sqlalchemy.exc import SQLAlchemyError

from forgeline.config.schema.serve.access import Role
from forgeline.serving.gateway.access.refusal import Unauthenticated
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import METADATA, Store, StoreFailed

logger = logging.getLogger("forgeline.gateway")
KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("name", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("models", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("former", String(64)),  # the secret before the last rotation, good until former_until
    Column("former_until", Float),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False, index=True),
    Column("expires_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("used_at", Float),
)
FORM = re.compile(r"fl_([0-9a-f]{12})_([\w-]{43})", re.ASCII)
NOBODY = "0" * 64  # what the secret of an unknown key is compared with
USED_SECONDS = 60.0  # how often a key's last use is written down
SKEW_SECONDS = 60.0  # how far the clocks of machines that share the database may be apart, for changes to be seen
WHOLE_SECONDS = 60.0  # how often all keys are read, and not only the changed ones


@dataclass(frozen=True)
class Key:
    """A key as the database has it; times are UTC epoch seconds."""

    id: str
    name: str
    tenant: str
    roles: frozenset[Role]
    models: frozenset[str]  # the only ones it may ask for; any if empty
    digest: str
    former: str | None
    former_until: float | None
    created_at: float
    changed_at: float
    expires_at: float
    revoked_at: float | None
    used_at: float | None

    @classmethod
    def of(cls, row: RowMapping) -> Key:
        """Return the key of a row."""
        return cls(**{**row, "roles": frozenset(row["roles"]), "models": frozenset(row["models"])})

    @property
    def state(self) -> str:
        """Return `revoked`, `expired` or `good`."""
        return "revoked" if self.revoked_at is not None else "good" if self.lasts(0) else "expired"

    def lasts(self, seconds: float) -> bool:
        """Return whether the key is good, and still will be in so many seconds."""
        return self.revoked_at is None and time.time() + seconds < self.expires_at

    def is_opened_by(self, digest: str, now: float) -> bool:
        """Return whether a secret's hash is this key's, or was until a rotation that still has its grace."""
        good_former = self.former is not None and self.former_until is not None and now < self.former_until
        return hmac.compare_digest(digest, self.digest) | (
            hmac.compare_digest(digest, self.former or NOBODY) and good_former
        )


def new_secret() -> str:
    """Return 256 random bits as 43 characters."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """The keys in memory, read anew every `refresh` seconds by a thread of their own.

    A check never waits for the database. While that cannot be read, what was known stays good for `stale` seconds.
    """

    def __init__(self, store: Store, refresh: float, stale: float) -> None:
        self._store = store
        self._refresh = refresh
        self._stale = stale
        self._known: dict[str, Key] = {}
        self._used: dict[str, float] = {}
        self._read_at = float("-inf")
        self._whole_at = float("-inf")
        self._since = 0.0
        self._closed = threading.Event()

    def open(self) -> None:
        """Read all keys, and begin to follow their changes.

        Raises:
            StoreFailed: if they cannot be read.
        """
        try:
            self._read()
        except SQLAlchemyError as fault:
            raise StoreFailed(f"The gateway's database cannot be read ({fault}): see serve.store.") from fault
        # Not a task: a database that hangs would hold a thread that the event loop waits for at its end.
        threading.Thread(target=self._follow, name="keys", daemon=True).start()

    def close(self) -> None:
        """Follow no longer."""
        self._closed.set()

    @property
    def age(self) -> float:
        """Return the seconds since the keys were read."""
        return time.monotonic() - self._read_at

    def caller(self, text: str) -> Caller:
        """Return whose key this is.

        Raises:
            Unauthenticated: for a key that is unknown, wrong, revoked or expired; the last two are told only to
                those who have its secret.
            ApiError: 503 if the database could not be read for `stale` seconds.
        """
        parts = FORM.fullmatch(text)
        if parts is None:
            raise Unauthenticated("This is not an API key of this server.", "invalid_api_key")
        if self.age > self._stale:
            raise ApiError(503, "Keys cannot be checked now.", "keys_unavailable", retry_after=5)
        now, digest = time.time(), hashed(parts[2])
        key = self._known.get(parts[1])
        if key is None:
            hmac.compare_digest(digest, NOBODY)
        if key is None or not key.is_opened_by(digest, now):
            raise Unauthenticated("This is not an API key of this server.", "invalid_api_key")
        if key.revoked_at is not None:
            raise Unauthenticated("This API key was revoked.", "revoked_api_key")
        if now >= key.expires_at:
            raise Unauthenticated("This API key has expired; have it rotated.", "expired_api_key")
        self._note_use(key.id, now)
        return Caller(key.id, key.tenant, key.roles, key.models)

    def _note_use(self, id_: str, now: float) -> None:
        if now - self._used.get(id_, 0) < USED_SECONDS:
            return
        self._used[id_] = now
        with suppress(StoreFailed):  # the store counts what it cannot take
            self._store.post(update(KEYS).where(KEYS.c.id == id_).values(used_at=now))

    def _follow(self) -> None:
        while not self._closed.wait(self._refresh):
            try:
                self._read()
            except Exception as fault:  # whatever it was: a thread that ends would let revoked keys in
                logger.warning("keys cannot be read, for %.0f s now: %s", self.age, fault)

    def _read(self) -> None:
        asked_at, now = time.monotonic(), time.time()
        whole = asked_at - self._whole_at >= WHOLE_SECONDS
        asked = select(KEYS) if whole else select(KEYS).where(KEYS.c.changed_at >= self._since)
        keys = {row["id"]: Key.of(row) for row in self._store.read_now(asked)}
        if whole:
            self._whole_at = asked_at
        if whole or keys:
            self._known = keys if whole else {**self._known, **keys}
        self._since = now - SKEW_SECONDS
        self._read_at = asked_at
