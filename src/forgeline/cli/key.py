"""`forgeline key create|list|rotate|revoke|limit|local`: who may ask the gateway, and how much."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgeline.cli.options import Json, Profile, Reason, Set

if TYPE_CHECKING:
    from forgeline.config import Config
    from forgeline.ledger import Ledger
    from forgeline.serving.gateway.access.keys import Key

app = typer.Typer(
    help="API keys of the gateway: made, rotated and revoked in its database, and recorded in the ledger.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Id = Annotated[str, typer.Argument(help="The key's id: what follows `fl_`, as `forgeline key list` shows it.")]
Days = Annotated[int | None, typer.Option("--days", min=1, help="Good for so long; access.key_days if not given.")]


class Period(StrEnum):
    """What a budget is for; `total` is for ever."""

    day = "day"
    month = "month"
    total = "total"


def create(
    name: Annotated[str, typer.Argument(help="Whose it is, and what for: it is shown in lists and the ledger.")],
    tenant: Annotated[str, typer.Option("--tenant", help="On whose behalf: budgets, caches and records are theirs.")],
    role: Annotated[list[str] | None, typer.Option("--role", help="Once for each role; caller if none.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Only this model; once for each.")] = None,
    days: Days = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once."""
    from forgeline.cli import environment
    from forgeline.serving.gateway.access import issuing

    config = environment.project(profile, set_)
    with issuing.opened(config.serve.store) as store:
        lasting = days or config.serve.access.key_days
        key, text = issuing.create(store, _ledger(config), name, tenant, role or ["caller"], model or [], lasting)
    _show_once(key, text, as_json)


def list_(profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """Show all keys without their secrets."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit, table
    from forgeline.serving.gateway.access import issuing

    config = environment.project(profile, set_)
    with issuing.opened(config.serve.store) as store:
        keys = issuing.keys(store)
    if as_json:
        emit([_facts(key) for key in keys])
        return
    headings = ("id", "name", "tenant", "roles", "models", "state", "expires", "last used")
    table("API keys", headings, map(_row, keys))


def rotate(
    id_: Id,
    grace_hours: Annotated[float, typer.Option("--grace-hours", min=0, help="The old secret stays good so long.")] = 24,
    days: Days = None,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Give a key another secret and show it, once; the one before stays good for a while."""
    from forgeline.cli import environment
    from forgeline.serving.gateway.access import issuing

    config = environment.project(profile, set_)
    with issuing.opened(config.serve.store) as store:
        lasting = days or config.serve.access.key_days
        key, text = issuing.rotate(store, _ledger(config), id_, grace_hours * 3600, lasting)
    _show_once(key, text, as_json)


def revoke(id_: Id, reason: Reason, profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """End a key for good; running gateways refuse it within seconds (access.refresh)."""
    from forgeline.cli import environment
    from forgeline.cli.output import emit
    from forgeline.serving.gateway.access import issuing

    config = environment.project(profile, set_)
    with issuing.opened(config.serve.store) as store:
        key = issuing.revoke(store, _ledger(config), id_, reason)
    if as_json:
        emit(_facts(key))
    else:
        print(f"Key {key.id} ({key.name}) is revoked.")


def limit(
    id_: Id,
    requests: Annotated[int | None, typer.Option("--requests-per-minute", min=1)] = None,
    tokens: Annotated[int | None, typer.Option("--tokens-per-minute", min=1, help="Prompt and completion.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at once.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", min=0, help="Money, in limits.prices.currency.")] = None,
    period: Annotated[Period, typer.Option("--period", help="What the budget is for.")] = Period.month,
    profile: Profile = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Give a key limits and a budget of its own in place of those it had, and show what it has spent.

    What is not named is as limits.per_key says, and without --budget there is none. Running gateways follow within
    seconds.
    """
    from forgeline.cli import environment
    from forgeline.cli.output import emit
    from forgeline.serving.gateway import limits
    from forgeline.serving.gateway.access import issuing

    config = environment.project(profile, set_)
    with issuing.opened(config.serve.store) as store:
        key = issuing.standing(store, id_)
        limits.set_limits(store, key.id, requests, tokens, concurrency)
        limits.set_budget(store, key.id, budget, period.value)
        spent = next(iter(limits.spend(store, key.id)), None)
    own = {"requests_per_minute": requests, "tokens_per_minute": tokens, "concurrency": concurrency}
    given = {**own, "budget": budget, "period": period.value}
    _ledger(config).append("key limited", key=key.id, name=key.name, **given)
    if as_json:
        emit({"id": key.id, **given, "spent": spent.spent if spent else None})
    else:
        named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in own.items() if value) or "as set"
        money = f"; {spent.spent:g} of {budget:g} {config.serve.limits.prices.currency} spent" if spent else ""
        print(f"Key {key.id} ({key.name}): {named}{money}.")


def local(profile: Profile = None, set_: Set = None) -> None:
    """Print this project's own key, role admin, made if need be: export OPENAI_API_KEY=$(forgeline key local)."""
    from forgeline.cli import environment
    from forgeline.serving.gateway.access.local import local_key

    print(local_key(environment.project(profile, set_)))


def _ledger(config: Config) -> Ledger:
    from forgeline.ledger import Ledger

    return Ledger(config.root / config.project.stores.ledger)


def _show_once(key: Key, text: str, as_json: bool) -> None:
    from forgeline.cli.output import emit

    if as_json:
        emit({**_facts(key), "key": text})
        return
    print(text)
    typer.echo(f"Keep it now, it is not shown again. Good until {_day(key.expires_at)}.", err=True)


def _facts(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "roles": sorted(key.roles),
        "models": sorted(key.models),
        "state": key.state,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "former_until": key.former_until,
        "revoked_at": key.revoked_at,
        "used_at": key.used_at,
    }


def _row(key: Key) -> tuple[str, ...]:
    def listed(names: Iterable[str]) -> str:
        return " ".join(sorted(names))

    used = _day(key.used_at) if key.used_at else "never"
    models = listed(key.models) or "any"
    return key.id, key.name, key.tenant, listed(key.roles), models, key.state, _day(key.expires_at), used


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


for verb in (create, list_, rotate, revoke, limit, local):
    app.command(verb.__name__.strip("_"))(verb)
