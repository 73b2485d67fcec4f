"""`models`: the catalogue of base models, and what training them would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from forgeline.cli.options import Json, Profile, Set

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.config.catalogue import Entry
    from forgeline.config.schema import Machine

COMPARED = ("lora", "qlora", "full")


def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to look at closely; all are listed without.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Estimate one method instead of lora, qlora and full.")] = None,
    machine: Annotated[
        str | None, typer.Option(help="A machine of configs/cost.yaml; cost.machine if not given.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="The machine's free memory in GB, if not its own.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Training tokens: adds hours and price.")] = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """List the base models of the catalogue, compare them, and estimate memory, time and cost of training them."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, table
    from forgeline.config import catalogue
    from forgeline.config.schema import Method
    from forgeline.errors import ConfigError

    config = environment.project(profile, set_)
    if method is not None and method not in get_args(Method):
        raise ConfigError(f"--method {method}: no such method; legal: {', '.join(get_args(Method))}.")
    entries = {name: catalogue.read(config.root, name) for name in names} if names else catalogue.read_all(config.root)
    listed = [_facts(name, entry, config) for name, entry in entries.items()]
    if not (names or method or machine or memory or tokens):
        if as_json:
            emit(listed)
        else:
            _list(listed)
        return
    where, measured = _machine(config, machine, memory)
    estimates = _estimates(config, entries, [method] if method else COMPARED, where, machine, tokens)
    if as_json:
        emit({"machine": {**measured, **where.model_dump()}, "models": listed, "estimates": estimates})
        return
    if names:
        rows = [(key, *(_shown(facts[key]) for facts in listed)) for key in listed[0] if key != "name"]
        table("models", ("", *names), rows)
    else:
        _list(listed)
    title = (
        f"training on {measured['name']} ({where.memory_gb:.0f} GB, {where.tflops:.3g} TFLOP/s, "
        f"{where.utilisation:.0%} used), batch {config.train.batch_size} of {config.train.max_tokens} tokens"
    )
    table(
        title,
        ("model", "method", "at least", "fits", "as", "takes", "hours", config.cost.currency),
        map(_row, estimates),
    )


def _facts(name: str, entry: Entry, config: Config) -> dict[str, Any]:
    from forgeline.config.catalogue import permitted

    terms = config.licenses.get(entry.license)
    return {
        "name": name,
        "parameters": entry.parameters,
        "context": entry.context,
        "license": entry.license,
        "commercial": permitted(config.licenses, entry.license, "commercial"),
        "conditions": terms.conditions if terms else "unknown: add the licence to configs/licenses.yaml",
        "languages": entry.languages,
        "chat_template": entry.chat_template,
        "source": entry.source,
        "revision": entry.revision or ("its sha256" if entry.pinned else "not pinned"),
        "targets": entry.targets,
        **entry.architecture.model_dump(),
    }


def _list(listed: list[dict[str, Any]]) -> None:
    from forgeline.cli.output import table

    rows = [
        (
            facts["name"],
            f"{facts['parameters'] / 1e9:.2f} B",
            f"{facts['context']:,}",
            facts["license"],
            _shown(facts["commercial"]),
            facts["revision"][:12],
        )
        for facts in listed
    ]
    table("models", ("name", "parameters", "context", "licence", "commercial", "revision"), rows)


def _machine(config: Config, name: str | None, memory: float | None) -> tuple[Machine, dict[str, str]]:
    """Return the machine that is asked for: as configs/cost.yaml describes it, or this one, measured."""
    from forgeline.errors import ConfigError

    cost = config.cost
    if name is not None and name not in cost.machines:
        raise ConfigError(
            f"--machine {name}: configs/cost.yaml describes {', '.join(cost.machines) or 'none'}; without the option "
            "this machine is measured."
        )
    described = cost.machines.get(name or cost.machine)
    if described is None:
        from forgeline.models import precision
        from forgeline.models.estimate import this_machine

        found, label = this_machine(precision(config.train)), f"this machine ({cost.machine}), measured"
    else:
        found, label = described, name or cost.machine
    return found.model_copy(update={"memory_gb": memory}) if memory else found, {"name": label}


def _estimates(
    config: Config,
    entries: dict[str, Entry],
    methods: Any,
    machine: Machine,
    name: str | None,
    tokens: float | None,
) -> list[dict[str, Any]]:
    from forgeline.models import precision
    from forgeline.models.estimate import estimate
    from forgeline.models.footprint import Shape

    train, price = config.train, config.cost.prices[name or config.cost.machine]
    dtype = train.dtype
    if dtype == "auto":
        dtype = "bfloat16" if machine.device == "cuda" else precision(train)
    return [
        {
            "model": model,
            **estimate(
                Shape.of_entry(entry.architecture),
                train.model_copy(update={"method": each}),
                machine,
                dtype,
                price,
                tokens,
            ).__dict__,
        }
        for model, entry in entries.items()
        for each in methods
    ]


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    from forgeline.models.fit import gigabytes

    cut = (
        f"{found['micro_batch']} at once{', checkpointing' if found['checkpointing'] else ''}" if found["fits"] else ""
    )
    hours, price = found["hours"], found["price"]
    return (
        found["model"],
        found["method"],
        gigabytes(found["least"]),
        _shown(found["fits"]),
        cut,
        gigabytes(found["memory"]) if found["fits"] else "",
        "" if hours is None else f"{hours:.2f}",
        "" if price is None else f"{price:.2f}",
    )


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(value) if isinstance(value, list) else str(value)
