"""`promote`, `rollback`, `lineage`, `ledger`: who decided what, on which evidence."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from forgeline.cli.options import REFUSED, Json, Profile, Reason, Set
from forgeline.errors import LedgerError


def promote(
    version: Annotated[str, typer.Argument(help="A version number or alias.")] = "challenger",
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Judge a version by today's policy and, if every gate passes, make it champion. Exit code 4 if refused."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import evidence, promotion, versions
        from forgeline.registry.gates import judge

        registered = versions.get(config.project, version)
        verdicts = judge(config.policy, evidence.gather(config, registered))
        promoted = promotion.promote(config, registered, verdicts)
    if as_json:
        emit({"version": registered.number, "promoted": promoted, "verdicts": [v.model_dump() for v in verdicts]})
    else:
        table("gates", ("verdict", "gate", "why"), [(v.outcome, v.gate, v.reason) for v in verdicts])
        print(f"version {registered.number} is {'champion' if promoted else 'refused; the champion stays as it was'}")
    if not promoted:
        raise typer.Exit(REFUSED)


def rollback(
    reason: Reason, to: Annotated[str | None, typer.Option(help="A version; the champion before if not given.")] = None
) -> None:
    """Make an older version champion again, once it is known to load; `forgeline deploy` then serves it."""
    from forgeline.cli import environment

    config = environment.project()
    from forgeline.registry import promotion

    entry = promotion.rollback(config, to, reason)
    print(f"version {entry.facts['version']} is champion again (was {entry.facts['champion_before']}); ", end="")
    print("serve it with `forgeline deploy`")


def lineage(
    version: Annotated[str | None, typer.Argument(help="A version or alias; what is live if not given.")] = None,
    record: Annotated[str | None, typer.Option(help="Walk the other way, from a record's id.")] = None,
    request: Annotated[str | None, typer.Option(help="Begin at a reply: its x-request-id.")] = None,
    as_json: Json = False,
) -> None:
    """Walk the chain of evidence: from a live model, or a reply, to source rows; or from a record to who saw it."""
    from forgeline.cli import chain, environment
    from forgeline.cli.output import emit, table

    config = environment.project()
    walked: dict[str, Any]
    if record:
        title, walked = f"record {record}", chain.from_record(config, record)
    elif request:
        title, walked = f"request {request}", chain.from_request(config, request)
    else:
        walked = chain.from_version(config, version)
        title = f"version {walked['version']}"
    if as_json:
        emit(walked)
    else:
        table(f"lineage of {title}", ("", ""), walked.items())


def ledger(
    action: Annotated[str | None, typer.Argument(help="`verify` checks the hash chain.")] = None, as_json: Json = False
) -> None:
    """Show every decision taken, or verify that none was altered, removed or reordered."""
    from forgeline.cli.output import emit, table
    from forgeline.config import load
    from forgeline.ledger import Ledger

    config = load()
    book = Ledger(config.root / config.project.stores.ledger)
    if action not in {None, "verify"}:
        raise LedgerError(f"forgeline ledger {action}: no such action; legal: verify.")
    entries = book.verify() if action else book.entries()
    if as_json:
        emit([entry.model_dump() for entry in entries])
    elif action:
        print(f"{len(entries)} entries, each follows from the one before: the ledger is intact.")
    else:
        rows = [(e.number, e.at, e.actor, e.action, e.facts.get("version", ""), e.digest[:12]) for e in entries]
        table("ledger", ("", "at", "who", "what", "version", "digest"), rows)
