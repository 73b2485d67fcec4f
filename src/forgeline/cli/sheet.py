"""`forgeline sheet export|import`: replies side by side to people, and their verdicts back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgeline.cli.options import Json, Profile, Set

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.evaluation import Report
    from forgeline.evaluation.sheets import Rated
    from forgeline.registry.versions import Version

app = typer.Typer(
    help="Blind sheets: people choose between the replies of models without knowing whose is whose.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def export(
    models: Annotated[list[str], typer.Argument(help="Two or more: versions, aliases, base, URLs, bundles, folders.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="At most so many prompts.")] = 50,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed chooses and shuffles otherwise.")] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Write a page and a table for people, and the key that says whose reply is where."""
    from forgeline.cli import environment
    from forgeline.config import load

    config, out = load(profile=profile, overrides=set_ or ()), out.absolute()
    environment.enter(config.root)
    from forgeline.evaluation import sheets
    from forgeline.registry import versions

    known = {name: one for one in versions.versions(config.project) for name in (str(one.number), *one.aliases)}
    lead = next((known[name] for name in models if name in known), None)
    rated = [_rated(config, name, known.get(name), lead) for name in models]
    key = sheets.make(rated, rows, config.project.seed if seed is None else seed)
    page, table, secret = sheets.export(key, out)
    alike = f" ({key.alike} more were answered in the same words, and are ties)" if key.alike else ""
    print(f"{len(key.lines)} prompts{alike}: give people {page} or {table}, and keep {secret} to yourself.")


def import_(
    folder: Annotated[Path, typer.Argument(help="The folder that `forgeline sheet export` wrote.")],
    files: Annotated[list[Path], typer.Argument(help="What came back: one file a person, named after them.")],
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Check verdicts against the sheet, say who wins and how far people agree, and keep it as gate evidence."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load

    config = load(profile=profile, overrides=set_ or ())
    folder, files = folder.absolute(), [file.absolute() for file in files]
    environment.enter(config.root)
    with reserved(as_json):
        from forgeline.evaluation import sheets, verdicts
        from forgeline.registry import people

        key = sheets.Key.read(folder)
        evaluate = config.evaluate
        judged = verdicts.count(
            key, verdicts.read(key, files), evaluate.bootstrap_samples, evaluate.confidence, config.project.seed
        )
        version = people.record(config, key, judged)
    name = key.models[0].name
    if as_json:
        emit(
            {
                "model": name,
                "version": version.number if version else None,
                "raters": judged.raters,
                "agreement": judged.agreement.model_dump() if judged.agreement else None,
                "win_rates": {other: estimate.model_dump() for other, estimate in judged.wins.items()},
            }
        )
        return
    table("verdicts", ("rater", "rows"), judged.raters.items())
    rows = [(f"{name} against {other}", estimate, estimate.n) for other, estimate in judged.wins.items()]
    if judged.agreement:
        rows.append(("agreement (Krippendorff's alpha)", judged.agreement, judged.agreement.n))
    table("what they say: shares of prompts won, ties half, and agreement", ("what", "value", "prompts"), rows)
    kept = f"kept as evidence on version {version.number}" if version else f"not kept: {name} is no registered version"
    print(f"{kept}.")


def _rated(config: Config, name: str, version: Version | None, lead: Version | None) -> tuple[Rated, Report]:
    """Return a model with its saved report; what has none answers the prompts now.

    `lead` is the first registered version on the sheet: its run has the base model's report beside its own.
    """
    from forgeline.data.versions import current
    from forgeline.evaluation import evaluate
    from forgeline.evaluation.sheets import Rated
    from forgeline.registry import versions
    from forgeline.serving.subjects import subject

    if version:
        rated = Rated(name=name, version=version.number, data_digest=version.lineage.data_digest)
        return rated, versions.report(config.project, version)
    if name == "base" and lead:
        rated = Rated(name=name, version=None, data_digest=lead.lineage.data_digest)
        return rated, versions.base_report(config.project, lead)
    data = current(config.root)
    report = evaluate(subject(config, name), config.root / data.paths["test"], config.evaluate, config.project.seed)
    return Rated(name=name, version=None, data_digest=data.digest), report


for verb in (export, import_):
    app.command(verb.__name__.strip("_"))(verb)
