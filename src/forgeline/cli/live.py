"""`deploy`, `chat`, `status`, `stop`: the running model."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from forgeline.cli.options import Json, Profile, Set
from forgeline.errors import ServingError


def deploy(
    what: Annotated[
        str, typer.Argument(help="A version number or alias; or status, logs, destroy of what is deployed.")
    ] = "champion",
    target: Annotated[str, typer.Option(help="Where: local, compose, kubernetes, … (docs/targets.md).")] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be made and why it is valid.")] = False,
    lines: Annotated[int, typer.Option(help="Of the log, for logs.")] = 50,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Bundle a version, check that it says what was evaluated, serve it, smoke-test it, record it."""
    from forgeline.cli import environment, placed
    from forgeline.cli.output import emit, reserved
    from forgeline.serving import targets

    config, place = environment.project(profile, set_), targets.named(target)
    match what:
        case "status":
            placed.show_status(target, place.status(config.root), as_json=as_json)
            return
        case "logs":
            placed.show_logs(config, target, place, lines)
            return
        case "destroy":
            placed.destroy(config, target, place)
            return
    with reserved(as_json):
        from forgeline.registry import versions

        number = versions.get(config.project, what).number
        if dry_run:
            plan = placed.planned(config, number, place)
        else:
            from pipelines.deployment import deployment

            deployment(version=number, target=target, config=config)
    if dry_run:
        placed.show_plan(target, place.tried, plan, as_json=as_json)
    elif as_json and (running := place.status(config.root)):
        emit(running.model_dump(mode="json"))


def chat(
    message: Annotated[str | None, typer.Argument(help="Ask this and leave; without it, talk.")] = None,
    system: Annotated[str | None, typer.Option(help="The system turn; the use case's own if not given.")] = None,
) -> None:
    """Talk to the running deployment."""
    from openai import OpenAIError

    from forgeline.config import load
    from forgeline.serving.client import client
    from forgeline.serving.gateway.access.local import saved_key
    from forgeline.serving.targets import local

    config = load()
    running = local.status(config.root)
    if running is None or running.health == "gone":
        raise ServingError("Nothing is deployed here: run `forgeline deploy`.")
    deployed = running.deployment
    asking: Any = client(deployed.url, saved_key(config.root), deployed.serve.access.tls)
    system = system or config.data.fetch.system
    opening = [{"role": "system", "content": system}] if system else []
    try:
        while question := message or _prompt():
            stream = asking.chat.completions.create(
                model=deployed.model,
                messages=[*opening, {"role": "user", "content": question.replace("\\n", "\n")}],
                stream=True,
            )
            for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            print()
            if message:
                break
    except OpenAIError as error:
        raise ServingError(f"{deployed.url} did not answer: {error}") from error


def status(as_json: Json = False) -> None:
    """Say what is deployed on this machine, which version, and whether it answers."""
    from forgeline.cli import placed
    from forgeline.config import load
    from forgeline.serving import targets

    placed.show_status("local", targets.named("local").status(load().root), as_json=as_json)


def stop() -> None:
    """End the deployment on this machine once the requests in flight are answered."""
    from forgeline.cli import placed
    from forgeline.config import load
    from forgeline.serving import targets

    placed.destroy(load(), "local", targets.named("local"))


def _prompt() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
