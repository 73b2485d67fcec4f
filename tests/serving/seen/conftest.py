"""The rooms, opened for a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rooms import Rooms, opened


@pytest.fixture
def open_rooms(tmp_path: Path) -> Iterator[Callable[..., Rooms]]:
    """A function that opens the rooms under a policy."""
    with ExitStack() as stack:

        def open_(
            seen: dict[str, Any] | None = None, review: dict[str, Any] | None = None, address: str | None = None
        ) -> Rooms:
            rooms = opened(address or f"sqlite:///{tmp_path}/gateway.db", seen or {}, review or {})
            stack.callback(rooms.store.close)
            stack.enter_context(rooms.client)
            return rooms

        yield open_


@pytest.fixture
def rooms(open_rooms: Callable[..., Rooms]) -> Rooms:
    return open_rooms()
