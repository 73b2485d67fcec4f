"""`forgeline rollout start|status|share|promote|abort|rollback`: another version under live traffic."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgeline.cli.options import Json, Profile, Reason, Set

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.serving.operate import Operator

app = typer.Typer(
    help="Another version beside the live one: tried, watched, promoted or taken back, without a failed request.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Target = Annotated[str, typer.Option(help="Where the gateway runs.")]
CallerShare = Annotated[float, typer.Argument(min=0.001, max=0.9, help="Of the callers, or of the requests copied.")]


class Mode(StrEnum):
    """Who is asked by the challenger."""

    canary = "canary"
    shadow = "shadow"
    blue_green = "blue-green"


def start(
    what: Annotated[str, typer.Argument(metavar="VERSION", help="A version number or alias.")],
    reason: Reason,
    mode: Annotated[
        Mode, typer.Option(help="Some callers, copies of requests, or nobody until it is promoted.")
    ] = Mode.canary,
    share: Annotated[float | None, typer.Option(min=0.001, max=0.9, help="rollout.share if not given.")] = None,
    target: Target = "local",
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Bundle a version, check that it says what was evaluated, and load it beside what is live.

    The engine is serve.engine as it is now: to try another engine, change that and start the same version.
    """
    from forgeline.cli import environment
    from forgeline.cli.output import reserved

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import versions
        from pipelines.rollout import rollout

        number = versions.get(config.project, what).number
        rollout(version=number, target=target, mode=mode.value, share=share, reason=reason, config=config)
    _show(_operator(config, target).rollout(), as_json=as_json)


def status(target: Target = "local", as_json: Json = False) -> None:
    """Show what is live, how the roll-out goes, and what speaks against the challenger."""
    from forgeline.config import load

    _show(_operator(load(), target).rollout(), as_json=as_json)


def share(value: CallerShare, reason: Reason, target: Target = "local", as_json: Json = False) -> None:
    """Give the challenger another share; who was asked by it and still is in the share, stays."""
    _change("share", target, as_json=as_json, share=value, reason=reason)


def promote(reason: Reason, target: Target = "local", as_json: Json = False) -> None:
    """Make the challenger what is live; the former stays loaded for a while."""
    _change("promote", target, as_json=as_json, reason=reason)


def abort(reason: Reason, target: Target = "local", as_json: Json = False) -> None:
    """End the roll-out: what is live goes on alone."""
    _change("abort", target, as_json=as_json, reason=reason)


def rollback(
    reason: Reason,
    to: Annotated[
        str | None, typer.Option(help="A version whose bundle is there; what was live before if none.")
    ] = None,
    target: Target = "local",
    as_json: Json = False,
) -> None:
    """Make what was live before live again: at once while it is warm, else once it is loaded."""
    _change("rollback", target, as_json=as_json, reason=reason, bundle=to)


def _operator(config: Config, target: str) -> Operator:
    from forgeline.serving.gateway.access.local import saved_key
    from forgeline.serving.operate import Operator
    from forgeline.serving.targets import answering

    return Operator(answering(config.root, target), saved_key(config.root), config.serve.access.tls)


def _change(verb: str, target: str, *, as_json: bool, **body: Any) -> None:
    from forgeline.config import load

    operator = _operator(load(), target)
    operator.change(verb, **{name: value for name, value in body.items() if value is not None})
    found = operator.loaded() if verb == "rollback" else operator.rollout()
    _show(found, as_json=as_json)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    from forgeline.cli.output import emit, table

    if as_json:
        emit(found)
        return
    rollout, former = found["rollout"], found["former"]
    rows = [("live", _named(found["live"]))]
    rows += [("warm", f"{_named(former)}, until {_clock(former['until'])}")] if former else []
    if rollout:
        tried, why = rollout["challenger"], f": {rollout['why']}" if rollout["why"] else ""
        share = f" {rollout['share']:.0%}" if rollout["share"] else ""
        rows += [
            ("roll-out", f"{rollout['state']}{why}"),
            ("challenger", f"{_named(tried)}, {rollout['mode']}{share}"),
            ("because", f"{rollout['reason']} ({rollout['by']})"),
            *((name.replace("_", " "), _counts(rollout[name])) for name in ("answered", "copies") if name in rollout),
        ]
    table("Roll-out", ("", ""), rows)
    if rollout and "evidence" in rollout:
        evidence = rollout["evidence"]
        measures = [
            (name, _rate(each["live"]), _rate(each["challenger"]), f"{each['e_value']:.3g}")
            for name, each in evidence["measures"].items()
        ]
        title = f"Against the challenger: {evidence['e_value']:.3g}, aborted at {evidence['limit']:.3g}"
        table(title, ("faults", "live", "challenger", "e-value"), measures)


def _named(what: dict[str, Any]) -> str:
    return f"version {what['version']} on {what['engine']}"


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items() if value is not None)


def _rate(counts: list[int]) -> str:
    faults, outcomes = counts
    return f"{faults} of {outcomes}"


def _clock(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


for verb in (start, status, share, promote, abort, rollback):
    app.command(verb.__name__)(verb)
