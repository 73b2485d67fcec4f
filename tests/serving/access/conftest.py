"""A database for keys, and a gateway as it is shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import ROLES, House, gateway
from scene import wait_for

from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import issuing
from forgeline.serving.gateway.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with issuing.opened(f"sqlite:///{tmp_path}/gateway.db") as opened:
        yield opened


@pytest.fixture
def issue(store: Store, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Make a key; return its id and text."""
    ledger = Ledger(tmp_path / "ledger.jsonl")

    def make(*roles: str, models: tuple[str, ...] = (), days: float = 1) -> tuple[str, str]:
        key, text = issuing.create(store, ledger, "a test", "shop", roles or ("caller",), models, days)
        return key.id, text

    return make


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway as it is shipped, and a key for each role."""
    with gateway(tmp_path_factory.mktemp("house"), refresh=0.05) as served:
        for role in ROLES:
            _, served.keys[role] = issuing.create(served.store, served.ledger, role, "shop", [role], [], 1)
        wait_for(lambda: served.ask("GET", "/v1/models", served.keys["admin"]).status == 200)
        yield served
