"""Guards of one's own, by the name of an entry point or as `module:Class`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from forgeline.config.schema.serve.guards import Custom
from forgeline.errors import ServingError
from forgeline.serving.gateway.guards.guard import Guard

GROUP = "forgeline.guards"


def load(custom: Custom) -> Guard:
    """Return the guard that settings name, made with the arguments that they give.

    Raises:
        ServingError: if there is none, it cannot be made, or it cannot inspect.
    """
    where = f"serve.guards.custom, {custom.name}"
    try:
        if ":" in custom.guard:
            module, _, name = custom.guard.partition(":")
            made = getattr(import_module(module), name)(**custom.settings)
        else:
            named = {point.name: point for point in entry_points(group=GROUP)}
            if custom.guard not in named:
                legal = ", ".join(sorted(named)) or "none is installed"
                raise ServingError(
                    f"{where}: there is no entry point {custom.guard} in the group {GROUP} ({legal}); "
                    "install its package, or name it as module:Class."
                )
            made = named[custom.guard].load()(**custom.settings)
    except ServingError:
        raise
    except Exception as fault:
        raise ServingError(f"{where}: {custom.guard} cannot be made ({type(fault).__name__}: {fault}).") from fault
    if not callable(getattr(made, "inspect", None)):
        raise ServingError(f"{where}: {custom.guard} has no method inspect(passage); see docs/guards.md.")
    guard: Guard = made
    return guard
