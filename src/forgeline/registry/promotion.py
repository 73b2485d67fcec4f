"""Move the champion alias, and write down who moved it and why."""

from __future__ import annotations

from typing import Any

from forgeline.config.schema import Config
from forgeline.errors import ForgelineError, RegistryError
from forgeline.ledger import Entry, Ledger
from forgeline.registry.gates import Verdict, passed
from forgeline.registry.versions import CHAMPION, Version, champion, get, set_alias


def ledger(config: Config) -> Ledger:
    """Return the project's ledger."""
    return Ledger(config.root / config.project.stores.ledger)


def promote(config: Config, version: Version, verdicts: list[Verdict]) -> bool:
    """Make a version champion if every gate passed; record either way, and return whether it is champion.

    A version that already is champion is left as it is, without an entry.
    """
    now = champion(config.project)
    if now is not None and now.number == version.number:
        return True
    facts = {
        "model": version.name,
        "version": version.number,
        "champion_before": now.number if now else None,
        "verdicts": [verdict.model_dump() for verdict in verdicts],
        "lineage": version.lineage.model_dump(),
    }
    if not passed(verdicts):
        record_once(config, "refused", facts)
        return False
    ledger(config).append("promoted", **facts)
    set_alias(config.project, CHAMPION, version)
    return True


def record_once(config: Config, action: str, facts: dict[str, Any]) -> None:
    """Append a decision to the ledger, unless the last one of its kind was the very same."""
    book = ledger(config)
    last = next((entry for entry in reversed(book.entries()) if entry.action == action), None)
    if last is None or last.facts != facts:
        book.append(action, **facts)


def approve(config: Config, version: Version, role: str, reason: str) -> Entry:
    """Record that whoever gives the command approves a version in a role that the policy asks for.

    Raises:
        RegistryError: if no gate asks for an approval by that role.
    """
    roles = sorted({gate.approval for gate in config.policy.gates.values() if gate.approval})
    if role not in roles:
        asked = f"they ask for {', '.join(roles)}" if roles else f"a gate such as {{approval: {role}}} would"
        raise RegistryError(f"No gate of configs/policy.yaml asks for an approval by {role!r}; {asked}.")
    return ledger(config).append("approved", model=version.name, version=version.number, role=role, reason=reason)


def approvals(config: Config, version: Version) -> dict[str, str]:
    """Return who approved a version in each role, and when.

    Raises:
        LedgerError: if the ledger was altered, for then nobody knows who approved.
    """
    given = [entry for entry in ledger(config).verify() if entry.action == "approved"]
    return {
        entry.facts["role"]: f"{entry.actor} on {entry.at[:10]}"
        for entry in given
        if (entry.facts["model"], entry.facts["version"]) == (version.name, version.number)
    }


def rollback(config: Config, to: str | None, reason: str) -> Entry:
    """Point the champion alias back at an older version that was champion, once it is known to load.

    Args:
        config: the project.
        to: a version number; the champion before the present one if None.
        reason: why, for the ledger.

    Raises:
        RegistryError: if there is no older champion, or the version does not load. The alias stays.
    """
    from forgeline.registry import loading

    now = champion(config.project)
    if now is None:
        raise RegistryError(f"{config.project.name} has no champion to roll back; promote a version first.")
    version = get(config.project, to or str(_champion_before(config, now)))
    if version.number == now.number:
        raise RegistryError(f"{version.name} version {version.number} is the champion already.")
    try:
        loading.subject(config, version, "older")
    except ForgelineError as error:
        raise RegistryError(
            f"{version.name} version {version.number} does not load, so version {now.number} stays champion: {error}"
        ) from error
    entry = ledger(config).append(
        "rolled back", model=version.name, version=version.number, champion_before=now.number, reason=reason
    )
    set_alias(config.project, CHAMPION, version)
    return entry


def _champion_before(config: Config, now: Version) -> int:
    moves = [entry for entry in ledger(config).entries() if entry.action in {"promoted", "rolled back"}]
    last = next((entry for entry in reversed(moves) if entry.facts["version"] == now.number), None)
    if last is None or last.facts["champion_before"] is None:
        raise RegistryError(
            f"{now.name} version {now.number} is the first champion: there is none to roll back to. "
            "Name a version with --to, or promote another."
        )
    return int(last.facts["champion_before"])
