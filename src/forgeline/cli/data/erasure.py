"""`forgeline data forget`: leave a subject's rows out of every later dataset version."""

from __future__ import annotations

from typing import Annotated

import typer

from forgeline.cli.options import Json


def forget(
    subject: Annotated[str, typer.Argument(help="Whose rows: the value of the records' `subject`.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept beside the subject's digest.")],
    as_json: Json = False,
) -> None:
    """Leave a subject's rows out of every later dataset version; only a digest of the subject is kept.

    What is there already stays: source files, versions in DVC's cache and remotes, models trained on them.
    `forgeline data find-subject` says in which versions the rows were.
    """
    from forgeline.cli.output import emit
    from forgeline.config import find_root
    from forgeline.data import erasure
    from forgeline.data.layout import TOMBSTONES

    added = erasure.forget(find_root(), subject, reason)
    digest = erasure.subject_digest(subject)
    if as_json:
        emit({"subject": digest, "added": added})
        return
    if not added:
        print(f"The subject was forgotten before ({digest[:12]} is in {TOMBSTONES}): nothing changed.")
        return
    print(
        f"Rows of the subject {digest[:12]} are left out from the next version on: make it with `forgeline data`, and "
        f"commit {TOMBSTONES} and dvc.lock. `forgeline data find-subject` says which earlier versions had the rows. "
        "Delete them from your source files, too."
    )
