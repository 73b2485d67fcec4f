"""What is said and done about a deployment, whatever its target."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from forgeline.cli.output import emit, table

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.serving.targets import Plan, Running, Target


def planned(config: Config, version: int, target: Target) -> Plan:
    """Return what a target would make of a version, whose bundle is built if it is not there."""
    from pathlib import Path

    from forgeline.serving.bundle import verify
    from forgeline.serving.targets import Job
    from steps.deployment import build_bundle

    bundle = Path(build_bundle.entrypoint(version=version, config=config))
    return target.plan(Job(config, bundle, verify(bundle, config.serve.signing), smoke=lambda url: None))


def show_plan(name: str, tried: str, plan: Plan, *, as_json: bool) -> None:
    """Print the files, what they were held against, and what would be done."""
    if as_json:
        checks = [{"what": check.what, "against": check.against} for check in plan.checks]
        emit({"target": name, "tried": tried, "files": plan.files, "checks": checks, "acts": plan.acts})
        return
    for path, text in plan.files.items():
        print(f"--- {path}\n{text}", end="" if text.endswith("\n") else "\n")
    table(f"{name} ({tried}): valid", ("what", "held against"), [(each.what, each.against) for each in plan.checks])
    print("Then:", *(f"  {act}" for act in plan.acts), sep="\n")


def show_status(name: str, running: Running | None, *, as_json: bool) -> None:
    """Print how a deployment is; exit code 1 if it is not ready."""
    if as_json:
        emit(running.model_dump(mode="json") if running else None)
    elif running is None:
        print(f"Nothing is deployed to {name}: run `forgeline deploy{_option(name)}`.")
    else:
        rows = [("endpoint", f"{running.url}/v1")] if running.url else []
        table(f"version {running.version}: {running.health}", ("", ""), [*rows, *running.facts.items()])
    if running is None or running.health != "ready":
        raise typer.Exit(1)


def show_logs(config: Config, name: str, target: Target, lines: int) -> None:
    """Print the last lines of a deployment's log."""
    if target.status(config.root) is None:
        print(f"Nothing is deployed to {name}.")
    sys.stdout.writelines(target.logs(config.root, lines))


def destroy(config: Config, name: str, target: Target) -> None:
    """Take a deployment down and write that into the ledger."""
    from forgeline.ledger import Ledger

    running = target.status(config.root)
    facts = target.destroy(config.root)
    if facts is None:
        print(f"Nothing is deployed to {name}.")
        return
    version = running.version if running else "unknown"
    Ledger(config.root / config.project.stores.ledger).append(
        "stopped", target=name, model=config.project.name, version=version, **facts
    )
    print(f"{config.project.name} version {version} is stopped")


def _option(name: str) -> str:
    return "" if name == "local" else f" --target {name}"
