"""`deploy`, `chat`, `status`, `stop`: the running model."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from forgeline.cli.options import Json, Profile, Set
from forgeline.errors import ServingError


def deploy(
    version: Annotated[str, typer.Argument(help="A version number or alias.")] = "champion",
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Bundle a version, check that it says what was evaluated, serve it, smoke-test it, record it."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, reserved

    config = environment.project(profile, set_)
    with reserved(as_json):
        from forgeline.registry import versions
        from forgeline.serving.targets import local

        number = versions.get(config.project, version).number
        from pipelines.deployment import deployment

        deployment(version=number, config=config)
        running = local.status(config.root)
    if as_json and running:
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
    """Say what is deployed, which version, and whether it answers."""
    from forgeline.cli.output import emit, table
    from forgeline.config import load
    from forgeline.serving.targets import local

    running = local.status(load().root)
    if as_json:
        emit(running.model_dump(mode="json") if running else None)
    elif running is None:
        print("Nothing is deployed here: run `forgeline deploy`.")
    else:
        deployed = running.deployment
        table(
            f"{deployed.model} version {deployed.version}: {running.health}",
            ("", ""),
            [
                ("endpoint", f"{deployed.url}/v1"),
                ("bundle", deployed.bundle),
                ("digest", deployed.digest),
                ("process", deployed.pid),
                ("since", deployed.started_at),
            ],
        )
    if running is None or running.health != "ready":
        raise typer.Exit(1)


def stop() -> None:
    """End the deployment once the requests in flight are answered."""
    from forgeline.config import load
    from forgeline.registry import promotion
    from forgeline.serving.targets import local

    config = load()
    stopped = local.stop(config.root)
    if stopped is None:
        print("Nothing is deployed here.")
        return
    deployed = stopped.deployment
    promotion.ledger(config).append("stopped", model=deployed.model, version=deployed.version, killed=stopped.killed)
    print(f"{deployed.model} version {deployed.version} is stopped" + (", killed: it did not drain" * stopped.killed))


def _prompt() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
