"""`optimise`: a version in other forms, smaller or faster, and what each costs and says."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json, Profile, Set


def optimise(
    version: Annotated[str, typer.Argument(help="A version number or alias.")] = "champion",
    report: Annotated[bool, typer.Option("--report", help="Show what was measured last, and measure nothing.")] = False,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Make and measure the variants of configs/optimise.yaml: size, speed, memory, and quality beside the bundle's."""
    from pathlib import Path

    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import versions
        from forgeline.serving.optimise import kept, page_of
        from forgeline.serving.optimise import report as reports

        number = versions.get(config.project, version).number
        if report:
            from steps.deployment import build_bundle

            bundle = Path(build_bundle.entrypoint(version=number, config=config))
            comparison = kept(config.root, bundle)
        else:
            from pipelines.optimise import optimise as pipeline

            steps = pipeline(version=number, config=config).steps
            comparison = steps["measure_variants"].output.load()
            bundle = Path(steps["build_bundle"].output.load())
        page = reports.write(comparison, page_of(config.root, bundle))
    if as_json:
        emit(comparison.model_dump(mode="json"))
        return
    title = (
        f"{len(comparison.outcomes) - 1} variants of version {comparison.version}, {comparison.test_prompts} prompts"
    )
    table(title, reports.headings(comparison), reports.rows(comparison))
    print("", *reports.reasons(comparison), f"\nthe page: {page}", sep="\n")
