"""`probe`: what a model does beyond its task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from forgeline.cli.options import Json, Profile, Set

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.config.schema.probes import Probe
    from forgeline.evaluation.probes import Scene
    from forgeline.records import Record
    from forgeline.registry.versions import Version


def probe(
    model: Annotated[str, typer.Argument(help="What `forgeline evaluate` takes: a version, alias, folder or URL.")],
    only: Annotated[list[str] | None, typer.Option(help="Run this probe; may be given again.")] = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Probe a model: stereotypes, toxicity, memorisation, robustness, forgetting, injection, ungrounded statements."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.evaluation import probes
        from forgeline.registry import probes as store

        names = _chosen(config, only)
        version = _version(config, model)
        report = probes.probe(_scene(config, model, version), names)
        if version is not None:
            report = store.store(config.project, version, report)
    if as_json:
        emit(report.model_dump(mode="json"))
        return
    meanings = {name: text for group in probes.MEANINGS.values() for name, text in group.items()}
    rows = [(name, found, found.n, meanings[name]) for name, found in report.estimates.items()]
    confidence = f"{config.probes.confidence:.0%} interval"
    table(f"{model} [{confidence}]", ("probe", "value", "n", "what it is"), rows)
    if report.not_measured:
        table("not measured", ("probe", "why"), report.not_measured.items())


def _chosen(config: Config, only: list[str] | None) -> list[Probe]:
    from forgeline.errors import ConfigError
    from forgeline.evaluation.probes import PROBES

    if unknown := [name for name in only or () if name not in PROBES]:
        raise ConfigError(f"--only {unknown[0]}: no such probe; legal: {', '.join(PROBES)}.")
    return [name for name in PROBES if name in (only or config.probes.run)]


def _version(config: Config, reference: str) -> Version | None:
    """Return the registered version that a reference names, None if it names something else."""
    from forgeline.registry import versions

    known = versions.versions(config.project)
    return next((one for one in known if reference == str(one.number) or reference in one.aliases), None)


def _scene(config: Config, reference: str, version: Version | None) -> Scene:
    from forgeline.data.versions import current
    from forgeline.evaluation.probes import Scene
    from forgeline.evaluation.score import test_records
    from forgeline.evaluation.subjects import Local
    from forgeline.models import load_base
    from forgeline.models.adapter import ADAPTER, base_of
    from forgeline.records import read_records
    from forgeline.registry import probes, versions
    from forgeline.serving.subjects import subject
    from forgeline.tuning.canaries import FILE

    data, root, train = current(config.root), config.root, config.train
    report, trained, folder = None, None, root / reference
    canaries: tuple[Record, ...] = ()
    run = folder.parent  # training leaves both files beside what it tuned
    if version is not None:
        train = versions.train_settings(config.project, version)
        report = versions.report(config.project, version)
        ids = versions.artifact(config.project, version, "training/records.json").read_text(encoding="utf-8")
        trained, canaries = frozenset(json.loads(ids)), probes.canaries(config.project, version)
    elif (run / "records.json").is_file():
        trained = frozenset(json.loads((run / "records.json").read_text(encoding="utf-8")))
        canaries = tuple(read_records(run / FILE)) if (run / FILE).is_file() else ()
    adapter = version is None and (folder / ADAPTER).is_file() and base_of(folder) == train.model.source
    known = adapter or (version is not None and train.method != "scratch")
    return Scene(
        subject=subject(config, reference),
        settings=config.probes,
        pii=config.data.clean.pii,
        root=root,
        data=data,
        test=test_records(root / data.paths["test"], config.evaluate.max_prompts, config.project.seed),
        report=report,
        trained=trained,
        canaries=canaries,
        base=(lambda: Local("base", load_base(train, root), config.evaluate.batch_size)) if known else None,
    )
