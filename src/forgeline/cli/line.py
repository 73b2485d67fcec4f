"""`run`, `train`, `evaluate`: walk the line, or one stretch of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgeline.cli.options import REFUSED, Json, Profile, Set, Stack

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.data.versions import DataVersion
    from forgeline.registry.gates import Verdict
    from forgeline.registry.versions import Version

UNCHANGED = 3
REASON = "data, configuration and library are those of the last run"


def run(
    profile: Profile = None,
    set_: Set = None,
    if_changed: Annotated[
        bool,
        typer.Option("--if-changed", help="Run only if data, configuration or library changed since the last run."),
    ] = False,
    deploy: Annotated[bool, typer.Option(help="Serve the champion when the gates have passed.")] = True,
    stack: Stack = None,
    as_json: Json = False,
) -> None:
    """Walk the whole line: data, base score, tune, score, register, gates, promote, deploy.

    Exit codes: 0 promoted (or champion already), 3 nothing changed, 4 refused by a gate, 1 error.
    """
    from forgeline.cli import environment, summary
    from forgeline.cli.output import emit, reserved

    config = environment.project(profile, set_)
    with reserved(as_json):
        result = _unchanged(config, deploy=deploy) if if_changed else None
        result = result or _walk(config, stack, deploy=deploy)
    if as_json:
        emit(result)
    else:
        summary.show(result)
    raise typer.Exit({"unchanged": UNCHANGED, "refused": REFUSED}.get(result["action"], 0))


def train(profile: Profile = None, set_: Set = None, stack: Stack = None, as_json: Json = False) -> None:
    """Walk the training line only: the champion may change, what is deployed does not."""
    run(profile, set_, deploy=False, stack=stack, as_json=as_json)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A version, an alias, base, a URL, a bundle, a folder (docs/evaluation.md).")
    ] = "champion",
    against: Annotated[str | None, typer.Option(help="Compare with this, named in the same way.")] = None,
    by: Annotated[str | None, typer.Option(help="Also by slice: a group of the records, length, language.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one page, too.")] = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Score a model on the frozen test prompts of the data in hand."""
    from forgeline.cli import environment, scores
    from forgeline.cli.output import emit, reserved

    html = html.absolute() if html else None
    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.evaluation import difference, page, slice_differences, slices

        settings, seed = config.evaluate, config.project.seed
        report = _score(config, model)
        other = _score(config, against) if against else None
        differences = difference(report, other, settings, seed) if other else {}
        parts = slices(report, by, settings, seed) if by and not other else None
        if by and other:
            parts = slice_differences(report, other, by, settings, seed)
        if html:
            page.write(report, [other] if other else [], html, settings, seed)
    if as_json:
        emit(scores.plain(model, report, against, differences, parts))
    else:
        scores.show(model, report, against, differences, parts, settings)


def _unchanged(config: Config, *, deploy: bool) -> dict[str, Any] | None:
    """Return what stands since the last run if data, configuration and library are the same, else None."""
    from forgeline.cli import summary
    from forgeline.data.versions import prepare
    from forgeline.registry.fingerprint import fingerprint

    told = summary.last(config)
    same = told is not None and told["fingerprint"] == fingerprint(config, prepare(config.root))
    if told and same and (not deploy or "endpoint" in told):
        return {**told, "action": "unchanged", "reason": REASON}
    from forgeline.registry import versions

    known = versions.last_fingerprint(config.project)
    if known is None or known != fingerprint(config, data := prepare(config.root)):
        return None
    champion = versions.champion(config.project)
    if deploy and champion:
        _deploy(config, champion.number)
    return summary.gather(config, "unchanged", REASON, data)


def _walk(config: Config, stack: str | None, *, deploy: bool) -> dict[str, Any]:
    """Run the training line and, if its version was promoted, the deployment line; return what was done."""
    from forgeline.cli import summary
    from forgeline.evaluation.metrics import create
    from forgeline.registry import versions
    from forgeline.registry.fingerprint import fingerprint

    create(config.evaluate.metrics)  # a wrong option is told before anything is computed
    data, version, verdicts, promoted = _train_on(config, stack) if stack else _train(config)
    versions.set_fingerprint(config.project, fingerprint(config, data))
    if promoted and deploy:
        _deploy(config, version.number)
    return summary.gather(
        config,
        "promoted" if promoted else "refused",
        "every gate passed" if promoted else "a gate did not pass; the champion stays as it was",
        data,
        version.number,
        verdicts,
    )


def _train(config: Config) -> tuple[DataVersion, Version, list[Verdict], bool]:
    from pipelines.training import training

    steps = training(config=config).steps
    data, version = steps["prepare_data"].output.load(), steps["register"].output.load()
    return data, version, steps["gate"].output.load().verdicts, steps["promote"].output.load()


def _train_on(config: Config, stack: str) -> tuple[DataVersion, Version, list[Verdict], bool]:
    """Make the candidate on a stack, and take the decision here, where the ledger is."""
    from forgeline.registry import evidence, promotion
    from forgeline.registry.gates import judge
    from pipelines import stacks

    steps = stacks.run(config, stack).steps
    data, version = steps["prepare_data"].output.load(), steps["register"].output.load()
    verdicts = judge(config.policy, evidence.gather(config, version))
    return data, version, verdicts, promotion.promote(config, version, verdicts)


def _deploy(config: Config, version: int) -> None:

    from pipelines.deployment import deployment

    deployment(version=version, target="local", config=config)


def _score(config: Config, name: str) -> Any:
    from forgeline.data.versions import current
    from forgeline.evaluation import evaluate as score
    from forgeline.serving.subjects import subject

    test = config.root / current(config.root).paths["test"]
    return score(subject(config, name), test, config.evaluate, config.project.seed)
