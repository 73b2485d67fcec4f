"""`forgeline guards`: what the gateway's guards cost, and how well they tell."""

from __future__ import annotations

from typing import Any

from forgeline.cli.options import Json, Profile, Set


def guards(profile: Profile = None, set_: Set = None, as_json: Json = False) -> None:
    """Measure the gateway's guards: cost, recall and false positives on held-out sets, as serve.guards sets them."""
    from forgeline.cli.output import emit, reserved, table
    from forgeline.config import load
    from forgeline.data.layout import SPLITS
    from forgeline.records import read_records

    config = load(profile=profile, overrides=set_ or ())
    with reserved(as_json):
        from forgeline.serving.gateway.guards.measure import measure

        measured = measure(config.serve.guards, read_records(config.root / SPLITS["test"]), config.root)
    if as_json:
        emit(measured)
        return
    title = "the gateway's guards, one passage at a time; shares with 95 % intervals"
    headings = ("guard", "median µs", "p99 µs", "set", "n", "measures", "share", "95 %", "how the set was made")
    table(title, headings, [row for name, one in measured["guards"].items() for row in _rows(name, one)])
    table(
        "all guards that are on, a test prompt and its reply",
        ("side", "median µs", "p99 µs"),
        [(side, one["median_us"], one["p99_us"]) for side, one in measured["together"].items()],
    )
    for name, one in measured["guards"].items():
        if "not_measured" in one:
            print(f"{name}: not measured on all sets: {one['not_measured']}")


def _rows(name: str, found: dict[str, Any]) -> list[tuple[object, ...]]:
    cost = found["cost"] or {"median_us": "-", "p99_us": "-"}
    return [
        (name, cost["median_us"], cost["p99_us"], *(one[key] for key in ("set", "n", "measures")), *_share(one))
        for one in found["sets"]
    ]


def _share(one: dict[str, Any]) -> tuple[str, str, str]:
    return f"{one['share']:.4f}", f"{one['low']:.4f}-{one['high']:.4f}", one["made"]
