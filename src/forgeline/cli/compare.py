"""`compare`: which approach to use."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json, Profile, Set
from forgeline.errors import EvaluationError


def compare(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A candidate of configs/approaches.yaml; all if not given.")
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Register the recommended approach as a version, the challenger.")
    ] = False,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Compare ways to use a model (prompt, examples, retrieval, tuning) on the same test prompts and budget.

    An approach that did not change is not evaluated again.
    """
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load

    config = load(profile=profile, overrides=set_ or ())
    candidates = config.approaches.candidates
    if unknown := [name for name in only or () if name not in candidates]:
        raise EvaluationError(f"--only {unknown[0]}: no such candidate; legal: {', '.join(candidates)}.")
    environment.enter(config.root)
    with reserved(as_json):
        from forgeline.evaluation import approaches_page
        from pipelines.approaches import approaches as pipeline

        steps = pipeline(config=config, names=list(only or candidates), register=register).steps
        comparison = steps["compare"].output.load()
        version = steps["register"].output.load() if register else None
    if as_json:
        emit({**comparison.model_dump(mode="json"), "version": version.number if version else None})
        return
    title = f"{len(comparison.outcomes)} approaches on {comparison.test_prompts} frozen test prompts"
    table(title, approaches_page.headings(comparison), approaches_page.rows(comparison))
    print(f"\n{comparison.recommendation.reason}")
    if version:
        print(
            f"version {version.number} is the challenger: `forgeline promote` judges it, `forgeline deploy` serves it"
        )
    print(f"\nthe page:    {comparison.page}\nexperiments: mlflow ui")
