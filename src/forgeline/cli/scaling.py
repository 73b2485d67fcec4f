"""`measure`, `simulate`, `advise`: how many replicas, how fast, for how much."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forgeline.cli.options import Json, Profile, Set
from forgeline.errors import ServingError

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.serving.scaling.traffic import Load, Trace

PROMPTS = 64  # of the test split, that a measurement asks
PLAIN = [{"role": "user", "content": "Where can I eat well tonight?"}]

From = Annotated[
    Path | None,
    typer.Option("--from", help="Requests from a file of JSON lines with at and completion_tokens."),
]
Since = Annotated[float | None, typer.Option("--since", help="Of the recorded ones, those since (epoch seconds).")]


def measure(
    machine: Annotated[str | None, typer.Argument(help="A machine of cost.yaml; the one in use if not given.")] = None,
    slots: Annotated[int, typer.Option("--slots", help="Requests that a replica answers at once.")] = 8,
    start: Annotated[float, typer.Option("--start", help="Seconds until a new replica is ready.")] = 30.0,
    rounds: Annotated[int, typer.Option("--rounds", help="Replies of each client.")] = 4,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure the running deployment of one replica, by how many ask at once; simulate and advise go by that."""
    import asyncio

    from forgeline.cli.output import emit
    from forgeline.config import load
    from forgeline.serving.gateway.access.local import saved_key
    from forgeline.serving.scaling import service
    from forgeline.serving.targets import local

    config = load(profile=profile, overrides=set_ or ())
    name = _known(config, machine)
    running = local.status(config.root)
    if running is None or running.health == "gone":
        raise ServingError("Nothing is deployed here: run `forgeline deploy`.")
    deployed = running.deployment
    headers = {"authorization": f"Bearer {saved_key(config.root)}", "cache-control": "no-store"}
    bodies = [{"model": deployed.model, "messages": prompt} for prompt in _prompts(config)]
    found = asyncio.run(service.measure(f"{deployed.url}/v1", headers, bodies, slots, start, rounds))
    path = service.save(found, name, config.root)
    if as_json:
        emit(found.model_dump(mode="json"))
        return
    for level, first, token in zip(found.at_once, found.first, found.token, strict=True):
        print(f"{level:>4} at once: first token {first:.3f} s, each further one {1000 * token:.1f} ms")
    print(f"kept: {path}")


def simulate(  # noqa: PLR0913, PLR0917 - each is an option of the command
    shape: Annotated[
        Literal["recorded", "steady", "daily", "bursts"],
        typer.Option("--traffic", help="The gateway's own recorded requests, or made up ones."),
    ] = "recorded",
    file: From = None,
    since: Since = None,
    times: Annotated[float, typer.Option("--times", help="So many times the recorded traffic.")] = 1.0,
    rate: Annotated[float, typer.Option("--rate", help="Made up: requests a second, on average.")] = 1.0,
    hours: Annotated[float, typer.Option("--hours", help="Made up: how long.")] = 24.0,
    tokens: Annotated[float, typer.Option("--tokens", help="Made up: tokens of a reply, on average.")] = 64.0,
    machine: Annotated[str | None, typer.Option("--machine", help="Of cost.yaml; the one in use if not given.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="At the spot price, with its interruptions.")] = False,
    gateways: Annotated[int | None, typer.Option("--gateways", help="If not given, enough of them.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as one page, too.")] = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Say what replicas, latency and cost serve.scaling would give for recorded or made up traffic."""
    from forgeline.cli.output import emit, table
    from forgeline.config import load
    from forgeline.errors import ConfigError
    from forgeline.serving.scaling import page, service
    from forgeline.serving.scaling import simulate as simulation

    config = load(profile=profile, overrides=set_ or ())
    name, cost = _known(config, machine), config.cost
    if spot and name not in cost.spot:
        raise ConfigError(f"--spot: configs/cost.yaml has no spot price for {name}; it has {', '.join(cost.spot)}.")
    price, lost = (cost.spot[name].price, cost.spot[name].interruptions) if spot else (cost.prices[name], 0.0)
    replica = service.load(name, config.root)
    traffic: Trace | Load
    if shape == "recorded":
        traffic = _recorded(config, file, since)
        traffic = traffic if times == 1 else traffic.times(times)
    else:
        from forgeline.serving.scaling.traffic import made_up

        traffic = made_up(shape, rate, round(3600 * hours), tokens)
    serve = config.serve
    found = simulation.simulate(
        *(traffic, replica, serve.scaling, serve.limits, price), gateways=gateways, interruptions=lost
    )
    if html:
        page.write(found, serve.scaling, replica, name, cost.currency, html)
    if as_json:
        emit(found.model_dump())
        return
    rows = [
        ("requests", f"{found.requests:,.0f}"),
        ("refused", f"{found.refused:.2%}"),
        *(
            (f"{what}: half, 95 %, 99 %", ", ".join(page.seconds(v) for v in (of.p50, of.p95, of.p99)))
            for what, of in (("first token", found.first), ("whole reply", found.whole))
        ),
        ("replicas: mean, most", f"{found.mean_ready:.2f}, {found.most_ready:.0f}"),
        ("gateways", found.gateways),
        (f"hours of {name}", f"{found.machine_hours:,.1f}"),
        (f"cost in {cost.currency}", f"{found.cost:,.2f}"),
    ]
    table(f"{found.hours:,.1f} hours by {found.method}", ("what", ""), rows)


def advise(
    first_token: Annotated[
        float | None,
        typer.Option("--first-token", help="Seconds for 95 % of first tokens; serve.scaling.first_token if not given."),
    ] = None,
    file: From = None,
    since: Since = None,
    times: Annotated[float, typer.Option("--times", help="So many times the recorded traffic.")] = 1.0,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Say which measured machine and which policy keep first tokens in time at the least cost, for recorded load."""
    from forgeline.cli.output import emit, table
    from forgeline.config import load
    from forgeline.errors import ConfigError
    from forgeline.serving.scaling import page, service
    from forgeline.serving.scaling.advise import advise as advised

    config = load(profile=profile, overrides=set_ or ())
    bound = first_token or config.serve.scaling.first_token
    if bound is None:
        raise ConfigError("Say how late first tokens may come: --first-token SECONDS, or serve.scaling.first_token.")
    measured = [name for name in config.cost.prices if (config.root / service.FOLDER / f"{name}.json").exists()]
    services = {name: service.load(name, config.root) for name in measured}
    trace = _recorded(config, file, since)
    trace = trace if times == 1 else trace.times(times)
    found = advised(trace, services, config.cost, config.serve.scaling, config.serve.limits, bound)
    if as_json:
        emit(found.model_dump(exclude={"options": {"__all__": {"outcome": {"asked", "ready", "paid", "ongoing"}}}}))
        return
    rows = [
        (
            *(one.machine, one.kind, f"{one.scaling.min_replicas} to {one.scaling.max_replicas}"),
            *(page.seconds(one.outcome.first.p95), f"{one.outcome.refused:.2%}", f"{one.a_month:,.2f}"),
            "yes" if one.meets else "no",
        )
        for one in found.options
    ]
    headings = ("machine", "policy", "replicas", "95 % of first tokens", "refused")
    title = f"{len(trace.at):,} requests in {trace.seconds / 3600:,.1f} hours"
    table(title, (*headings, f"{config.cost.currency} a month", "in time"), rows)
    for sentence in found.sentences:
        print(f"- {sentence}")
    if left := config.cost.prices.keys() - services.keys():
        print(f"not measured, so not judged: {', '.join(sorted(left))}")


def _known(config: Config, machine: str | None) -> str:
    from forgeline.errors import ConfigError

    name = machine or config.cost.machine
    if name not in config.cost.prices:
        raise ConfigError(f"configs/cost.yaml has no machine {name}; it has {', '.join(config.cost.prices)}.")
    return name


def _recorded(config: Config, file: Path | None, since: float | None) -> Trace:
    from forgeline.serving.scaling import traffic

    if file is not None:
        if not file.is_file():
            raise ServingError(f"There is no file {file} of requests.")
        return traffic.from_file(file)
    import os

    os.chdir(config.root)  # where serve.store may be relative to
    return traffic.recorded(config.serve.store, since)


def _prompts(config: Config) -> list[list[dict[str, str]]]:
    from itertools import islice

    from forgeline.records import read_records

    path = config.root / "data/splits/test.jsonl"
    if not path.exists():
        return [PLAIN]
    return [record.prompt for record in islice(read_records(path), PROMPTS)]
