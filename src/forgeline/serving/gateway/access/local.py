"""The key of whoever owns this machine's project: a file that only they can read, so that a laptop needs no set-up."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from forgeline.config.schema import Config
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import issuing
from forgeline.serving.gateway.access.keys import FORM, hashed
from forgeline.serving.gateway.store import Store

NAME = "local"
RENEW_DAYS = 1  # one that ends sooner is replaced


def saved_key(root: Path) -> str:
    """Return the key in the project's `.forgeline/keys/local`; without the file, one that opens nothing."""
    path = _path(root)
    return path.read_text(encoding="ascii").strip() if path.exists() else "none"


def local_key(config: Config) -> str:
    """Return the key of the project's owner, role admin; make and save one unless the saved one is good.

    Raises:
        ServingError: if the gateway's database takes no key.
    """
    with issuing.opened(config.serve.store) as store:
        saved = saved_key(config.root)
        if _is_good(store, saved):
            return saved
        ledger = Ledger(config.root / config.project.stores.ledger)
        owner, days = getpass.getuser(), config.serve.access.key_days
        _, text = issuing.create(store, ledger, f"{NAME}: {owner}", NAME, ["admin"], [], days)
    path = _path(config.root)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name("local.part")
    partial.unlink(missing_ok=True)  # a new file, so that its mode is ours
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text + "\n")
    os.replace(partial, path)
    return text


def _is_good(store: Store, text: str) -> bool:
    parts = FORM.fullmatch(text)
    if parts is None:
        return False
    found = next((key for key in issuing.keys(store) if key.id == parts[1]), None)
    return found is not None and found.digest == hashed(parts[2]) and found.lasts(RENEW_DAYS * issuing.DAY)


def _path(root: Path) -> Path:
    return root / ".forgeline" / "keys" / "local"
