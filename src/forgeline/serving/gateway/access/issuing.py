"""Make, list, rotate and revoke API keys; each change goes into the ledger before it is made, without the secret."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import insert, select, update
from sqlalchemy.engine import make_url

from forgeline.config.schema.serve.access import Role
from forgeline.errors import ServingError
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access.keys import KEYS, Key, hashed, new_secret
from forgeline.serving.gateway.store import Store, StoreFailed
from forgeline.sources.environment import expand

DAY = 86_400.0
ROLES: tuple[Role, ...] = get_args(Role)
WRITE_SECONDS = 10.0  # for a database that another process holds


@contextmanager
def opened(address: str) -> Iterator[Store]:
    """Open the gateway's database, and close it once all is written; a folder for SQLite's file is made.

    Raises:
        StoreFailed: if it cannot be opened.
    """
    url = make_url(expand(address))
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    store = Store(address)
    store.open()
    yield store
    store.close()  # not after a fault: a database that takes no writes would hold it for ever


def keys(store: Store) -> list[Key]:
    """Return all keys, the oldest first."""
    return [Key.of(row) for row in store.read_now(select(KEYS).order_by(KEYS.c.created_at))]


def create(
    store: Store, ledger: Ledger, name: str, tenant: str, roles: Sequence[str], models: Sequence[str], days: float
) -> tuple[Key, str]:
    """Make a key and return it with its text, which nobody can read again.

    Raises:
        ServingError: for a role that there is not.
    """
    if strange := sorted(set(roles) - set(ROLES)):
        raise ServingError(f"There is no role {', '.join(strange)}: there are {', '.join(ROLES)}.")
    now, secret = time.time(), new_secret()
    key = Key(
        id=secrets.token_hex(6),
        name=name,
        tenant=tenant,
        roles=frozenset(role for role in ROLES if role in roles),
        models=frozenset(models),
        digest=hashed(secret),
        former=None,
        former_until=None,
        created_at=now,
        changed_at=now,
        expires_at=now + days * DAY,
        revoked_at=None,
        used_at=None,
    )
    row = {**vars(key), "roles": sorted(roles), "models": sorted(models)}
    facts = {"key": key.id, "name": name, "tenant": tenant, "roles": row["roles"], "models": row["models"]}
    ledger.append("key created", **facts, expires_at=key.expires_at)
    _written(store.post(insert(KEYS), row))
    return key, f"fl_{key.id}_{secret}"


def rotate(store: Store, ledger: Ledger, id_: str, grace: float, days: float) -> tuple[Key, str]:
    """Give a key another secret and return its text; the one before stays good for `grace` seconds.

    A secret that an earlier rotation left its grace ends now.

    Raises:
        ServingError: if there is no such key, it was revoked, or somebody else changes it at this moment.
    """
    key, now, secret = standing(store, id_), time.time(), new_secret()
    until = min(now + grace, key.expires_at)
    change: dict[str, Any] = {
        "digest": hashed(secret),
        "former": key.digest,
        "former_until": until,
        "changed_at": now,
        "expires_at": now + days * DAY,
    }
    ledger.append("key rotated", key=id_, name=key.name, former_until=until, expires_at=change["expires_at"])
    where = (KEYS.c.id == id_) & (KEYS.c.digest == key.digest) & KEYS.c.revoked_at.is_(None)
    if not _written(store.post(update(KEYS).where(where).values(**change))):
        raise ServingError(f"Key {id_} was changed by somebody else just now: look at `forgeline key list`.")
    return replace(key, **change), f"fl_{id_}_{secret}"


def revoke(store: Store, ledger: Ledger, id_: str, reason: str) -> Key:
    """End a key; running gateways refuse it within `access.refresh` seconds.

    Raises:
        ServingError: if there is no such key, or it was revoked before.
    """
    key, now = standing(store, id_), time.time()
    ledger.append("key revoked", key=id_, name=key.name, tenant=key.tenant, reason=reason)
    _written(store.post(update(KEYS).where(KEYS.c.id == id_).values(revoked_at=now, changed_at=now)))
    return replace(key, revoked_at=now, changed_at=now)


def standing(store: Store, id_: str) -> Key:
    """Return a key that was not revoked; raise ServingError if there is none."""
    rows = store.read_now(select(KEYS).where(KEYS.c.id == id_))
    if not rows:
        raise ServingError(f"There is no key {id_}: `forgeline key list` shows their ids.")
    key = Key.of(rows[0])
    if key.revoked_at is not None:
        raise ServingError(f"Key {id_} ({key.name}) was revoked; create another.")
    return key


def _written(done: Future[Any]) -> int:
    try:
        return int(done.result(WRITE_SECONDS))
    except TimeoutError:
        raise StoreFailed(
            "The gateway's database takes no writes now (it is locked, full or away): try again; "
            "the ledger already has the intention."
        ) from None
