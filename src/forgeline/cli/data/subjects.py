"""`forgeline data find-subject`: where a person's rows are, and which models learned from them."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json


def find_subject(
    subject: Annotated[str, typer.Argument(help="The person, as `subject` of the records names them.")],
    fetch: Annotated[bool, typer.Option(help="Fetch from the remote what is not here.")] = False,
    as_json: Json = False,
) -> None:
    """Say which dataset versions hold a person's rows, where in them, and which models trained on those."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load
    from forgeline.data import appearances
    from forgeline.data.erasure import subject_digest, tombstones
    from forgeline.data.layout import NAMES

    config = load()
    environment.enter(config.root)
    with reserved(as_json):
        found = appearances.find_subject(config.root, subject, fetch)
        erased = subject_digest(subject) in tombstones(config.root)
        trained = {row for each in found for row in each.rows.get("train", ())}
        models = []
        if trained:  # only then is the registry asked: its imports take seconds
            from forgeline.cli.chain import trained_on

            models = trained_on(config, trained)
    if as_json:
        versions = [each.model_dump() for each in found]
        emit({"subject": subject, "erased": erased, "versions": versions, "trained_models": models})
        return
    places = (*NAMES, appearances.HELD)
    rows = []
    for each in found:
        counts = ["not here" if name in each.missing else len(each.rows.get(name, ())) for name in places]
        rows.append((each.digest[:12], each.revision[:10], each.date[:16], *counts))
    table(f"rows of {subject}", ("version", "revision", "when", *places), rows)
    if any(each.missing for each in found):
        print("Some files are not here: run `dvc fetch`, or this command with --fetch.")
    print(f"models trained on them: {', '.join(map(str, models)) or 'none'}")
    print("erased: no later version holds their rows" if erased else "not erased: `forgeline data forget` does that")
