"""What is to be served, from the files that say so and to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forgeline.errors import LedgerError
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.rollout.bundles import found
from forgeline.serving.gateway.rollout.history import TRIED, History
from forgeline.serving.operate import CHALLENGER
from forgeline.serving.order import Order


def ordered(path: Path, live: Order, name: str | None) -> Order:
    """Return what is to be tried."""
    if name is not None:
        return live.model_copy(update={"bundle": found(live.bundle.parent, name)})
    beside = path.with_name(CHALLENGER)
    if not beside.is_file():
        raise ApiError(404, f"Name a bundle, or write {CHALLENGER} beside the order.", "bundle_not_found", "bundle")
    asked = Order.read(beside)
    serve = live.serve.model_copy(update={name: getattr(asked.serve, name) for name in TRIED})
    return live.model_copy(update={"bundle": asked.bundle, "serve": serve})


def before_live(path: Path, live: Order, digest: str, name: str | None) -> Order:
    """Return what to go back to."""
    if name is not None:
        return live.model_copy(update={"bundle": found(live.bundle.parent, name)})
    assert live.ledger is not None  # noqa: S101
    former = History(path, live.ledger).before(digest)
    if former is None:
        message = "The ledger knows of nothing that was live before, by a roll-out: name a bundle."
        raise ApiError(404, message, "bundle_not_found", "bundle")
    if not Path(former["path"]).is_dir():
        message = f"The bundle of version {former['version']} is no longer at {former['path']}: deploy that version."
        raise ApiError(404, message, "bundle_not_found", "bundle")
    values = live.model_dump(mode="json")
    values["serve"] |= former["settings"]
    return Order.model_validate(values | {"bundle": former["path"]})


def decide(path: Path, order: Order, live: Order, action: str, facts: dict[str, Any]) -> None:
    """Write an order and why; both or none.

    Raises:
        ApiError: 503 if it cannot be written.
    """
    assert live.ledger is not None  # noqa: S101
    try:
        order.save(path)
        try:
            History(path, live.ledger).write(action, **facts)
        except BaseException:
            live.save(path)
            raise
    except (OSError, LedgerError) as fault:
        message = f"The decision cannot be written ({fault}): nothing is changed."
        raise ApiError(503, message, "ledger_unavailable", retry_after=5) from fault
