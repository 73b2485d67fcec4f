"""`stack`: tell ZenML where else the line can run."""

from __future__ import annotations

from typing import Annotated

import typer


def stack(name: Annotated[str, typer.Argument(help="A file of configs/stacks/, without .yaml.")]) -> None:
    """Check a stack file and register its components with ZenML, or bring them up to date."""
    from forgeline.cli import environment
    from forgeline.config import find_root

    root = find_root()
    environment.enter(root)
    from pipelines import stacks

    file = stacks.register(root, name)
    print(f"{file.stack_name} is registered: {', '.join(each.name for each in file.components.values())}")
    print(f"run on it:  forgeline train --stack {name}")
