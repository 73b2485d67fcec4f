"""`gate`: what a version's gates say, and what would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from forgeline.cli.options import REFUSED, Json, Profile, Set

if TYPE_CHECKING:
    from forgeline.config.schema import Gate
    from forgeline.registry.gates import Verdict


def gate(
    version: Annotated[str, typer.Argument(help="A version number or alias.")] = "challenger",
    explain: Annotated[bool, typer.Option("--explain", help="Say of each rule what would change its verdict.")] = False,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Judge a version by today's policy and change nothing. Exit code 4 if any gate does not pass."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import evidence, versions
        from forgeline.registry.gates import judge, passed

        registered = versions.get(config.project, version)
        verdicts = judge(config.policy, evidence.gather(config, registered))
    if as_json:
        rules = {name: _rule(each) for name, each in config.policy.gates.items()}
        emit({"version": registered.number, "verdicts": [{**v.model_dump(), "rule": rules[v.gate]} for v in verdicts]})
    elif explain:
        print("\n".join(_explained(verdict, config.policy.gates[verdict.gate]) for verdict in verdicts))
    else:
        rows = [(verdict.outcome, verdict.gate, verdict.reason) for verdict in verdicts]
        table(f"gates of version {registered.number}", ("verdict", "gate", "why"), rows)
    if not passed(verdicts):
        raise typer.Exit(REFUSED)


def _explained(verdict: Verdict, rule: Gate) -> str:
    said = ", ".join(f"{key}: {value}" for key, value in _rule(rule).items())
    return (
        f"{verdict.gate}: {{{said}}}\n  {verdict.outcome}: {verdict.reason}\n  what would change it: {verdict.change}"
    )


def _rule(rule: Gate) -> dict[str, object]:
    return rule.model_dump(exclude_none=True)
