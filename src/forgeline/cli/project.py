"""`validate` and `doctor`: is the configuration sound, is the machine fit."""

from __future__ import annotations

import typer

from forgeline.cli.options import Json, Profile, Set


def validate(profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """Check every file of configs/ and say all that is wrong with it at once."""
    from forgeline.cli.output import emit
    from forgeline.config import load
    from forgeline.config.catalogue import permitted

    config = load(profile=profile, overrides=set_ or ())
    from forgeline.evaluation.metrics import create

    create(config.evaluate.metrics)
    license_, use = config.train.model.license, config.project.use
    permission = config.train.method == "scratch" or permitted(config.licenses, license_, use)
    if as_json:
        emit({"valid": True, "profile": profile, "digest": config.digest(), "license_permits_use": permission})
    else:
        if not permission:
            found = "does not permit" if permission is False else "is not in configs/licenses.yaml, so nobody knows of"
            print(f"note: the base model's licence {license_} {found} {use} use: a gate on it will not pass.")
        print(f"The configuration is valid (profile {profile or 'none'}, digest {config.digest()[:12]}).")


def doctor(as_json: Json = False) -> None:
    """Say what this machine has, what is missing, and the command that mends it."""
    from forgeline.cli.checks import examine
    from forgeline.cli.output import emit, table

    checks = examine()
    if as_json:
        emit([check.__dict__ for check in checks])
    else:
        rows = [("ok" if check.ok else "MISSING", check.name, check.found, check.mend) for check in checks]
        table("doctor", ("", "what", "found", "to mend it"), rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
