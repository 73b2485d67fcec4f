"""What the ledger says of the roll-outs of one deployment: what is open, and what was live before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forgeline.ledger import Entry, Ledger
from forgeline.serving.bundle import Manifest
from forgeline.serving.order import Order

STARTED, SHARED, ABORTED = "rollout_started", "rollout_share_changed", "rollout_aborted"
PROMOTED, ROLLED_BACK = "promoted_live", "rolled_back_live"
TRIED = ("engine", "scaling")  # what of serve.yaml a roll-out may change beside the bundle
ENDS = {ABORTED, PROMOTED, ROLLED_BACK}


class History:
    """The entries of the deployment whose order lies at `path`."""

    def __init__(self, path: Path, ledger: Path) -> None:
        self._path = str(path.resolve())
        self._ledger = Ledger(ledger)

    def write(self, action: str, **facts: Any) -> None:
        """Add an entry; raises OSError, or LedgerError if the ledger cannot be read."""
        self._ledger.append(action, deployment=self._path, **facts)

    def left_open(self) -> dict[str, Any] | None:
        """Return the facts of a roll-out that was started and never ended."""
        last = next((entry for entry in reversed(self._entries()) if entry.action in {STARTED, *ENDS}), None)
        return last.facts if last and last.action == STARTED else None

    def before(self, digest: str) -> dict[str, Any] | None:
        """Return what was live before the bundle that is, if that was promoted last; as `told` says it."""
        changes = (entry for entry in reversed(self._entries()) if entry.action in {PROMOTED, ROLLED_BACK})
        last = next(changes, None)
        promoted = last is not None and last.action == PROMOTED and last.facts["live"]["bundle"] == digest
        return last.facts["before"] if last and promoted else None

    def _entries(self) -> list[Entry]:
        return [entry for entry in self._ledger.entries() if entry.facts.get("deployment") == self._path]


def told(order: Order, manifest: Manifest) -> dict[str, Any]:
    """Return what an entry says of a bundle and the settings of what serves it."""
    settings = {name: getattr(order.serve, name).model_dump(mode="json") for name in TRIED}
    return {
        "version": manifest.lineage.version,
        "bundle": manifest.digest,
        "path": str(order.bundle),
        "settings": settings,
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two of them are the same bundle, served alike."""
    return all(one[name] == other[name] for name in ("bundle", "settings"))
