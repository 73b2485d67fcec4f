"""`signing-key`, `sign`, `verify`, `sbom`: who vouches for what is served, and what it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forgeline.cli.options import Json, Profile, Reason, Set
from forgeline.errors import ServingError

Folder = Annotated[Path, typer.Argument(help="The folder of a bundle.", resolve_path=True)]


def signing_key(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; the public one gets `.pub` at its end.")],
    password: Annotated[
        str | None, typer.Option("--password", help="Encrypt it by this, given by reference: '${env:NAME}'.")
    ] = None,
) -> None:
    """Make a key that signs bundles, for serve.signing.key, and its public half, for serve.signing.trusted."""
    from forgeline.serving import signing
    from forgeline.sources.environment import VARIABLE, expand

    if password and not VARIABLE.fullmatch(password):
        raise typer.BadParameter("give it by reference, '${env:NAME}': others can read command lines.")
    public, key = signing.make_key(path, expand(password) if password else None)
    print(f"key {key}: {path} signs (keep it secret), {public} is for those who verify")


def sign(bundle: Folder, reason: Reason, profile: Profile = None, set_: Set = None) -> None:
    """Vouch for a bundle that is intact, as by another key; `forgeline deploy` signs those that it builds by itself."""
    from forgeline.cli import environment
    from forgeline.ledger import Ledger
    from forgeline.serving import signing
    from forgeline.serving.bundle import MANIFEST, NOBODY, verify

    config = environment.project(profile, set_)
    manifest = verify(bundle, NOBODY)  # its signature, if there is one, is what this replaces
    vouched = signing.sign(bundle / MANIFEST, config.serve.signing)
    if vouched is None:
        print(f"{bundle} is signed by that key already.")
        return
    facts = {"bundle": manifest.digest[:16], "reason": reason}
    Ledger(config.root / config.project.stores.ledger).append("signed", **facts, **vouched.model_dump())
    print(f"{bundle} is signed by key {vouched.key}.")


def verify(bundle: Folder, profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """Check a bundle as every engine does before it loads one, and say what was checked."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, table
    from forgeline.serving import bundle as bundles
    from forgeline.serving import signing

    config = environment.project(profile, set_)
    manifest = bundles.verify(bundle, config.serve.signing)
    document = bundle / bundles.MANIFEST
    vouched = signing.check(document, document.read_bytes(), config.serve.signing)
    if as_json:
        told = {"digest": manifest.digest, "files": manifest.files, "lineage": manifest.lineage.model_dump()}
        emit(told | {"signature": vouched.model_dump() if vouched else None})
        return
    by = "none by a key that is trusted here"
    if vouched:
        by = f"key {vouched.key}, {vouched.statement.signer} at {vouched.statement.at}"
    size = sum((bundle / name).stat().st_size for name in manifest.files)
    table(
        f"{bundle} is intact",
        ("", ""),
        [
            ("signature", by),
            ("manifest", f"{manifest.digest}, follows from its fields"),
            ("files", f"{len(manifest.files)} of {size:,} bytes: each has its sha256; no other file, link or pickle"),
            ("model", f"{manifest.lineage.model} version {manifest.lineage.version}"),
            ("data", manifest.lineage.data_digest),
            ("run", manifest.lineage.mlflow_run),
        ],
    )


def sbom(
    bundle: Annotated[
        Path | None, typer.Argument(help="The folder of a bundle; the deployed one if not given.", resolve_path=True)
    ] = None,
    environment: Annotated[
        Path | None,
        typer.Option("--environment", help="The virtual environment that serves it, if not this.", resolve_path=True),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it there instead of printing it.", resolve_path=True)
    ] = None,
    profile: Profile = None,
    set_: Set = None,
) -> None:
    """Tell what a deployment is made of, packages, model and lineage, as a CycloneDX bill of materials."""
    from forgeline.cli import environment as process
    from forgeline.cli.output import emit
    from forgeline.records import write_json
    from forgeline.serving import bundle as bundles
    from forgeline.serving import sbom as bills
    from forgeline.serving.targets import local

    config = process.project(profile, set_)
    if bundle is None:
        running = local.status(config.root)
        if running is None:
            raise ServingError("Nothing is deployed here: name a bundle, or run `forgeline deploy`.")
        bundle = running.deployment.bundle
    bill = bills.sbom(bundles.verify(bundle, config.serve.signing), config.project, environment)
    if output is None:
        emit(bill)
        return
    write_json(output, bill)
    print(f"{output}: {len(bill['components'])} components")
