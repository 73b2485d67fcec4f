"""`approve`: a person answers for a version."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json, Profile, Reason, Set


def approve(
    version: Annotated[str, typer.Argument(help="A version number or alias.")],
    role: Annotated[str, typer.Option(help="In which role: one that a gate of configs/policy.yaml asks for.")],
    reason: Reason,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Approve a version under your name, in the ledger; its gates then say so, and nothing is promoted yet."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import promotion, versions

        entry = promotion.approve(config, versions.get(config.project, version), role, reason)
    if as_json:
        emit(entry.model_dump())
    else:
        print(f"version {entry.facts['version']} is approved as {role} by {entry.actor}")
