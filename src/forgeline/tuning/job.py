"""What a tuning run is given, as a value that another process can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Train

VALIDATION_EXAMPLES = 200  # at most, of the validation split

Log = Callable[[dict[str, float], int], None]


class Job(BaseModel):
    """One tuning run: one folder, one configuration, one dataset version."""

    model_config = ConfigDict(frozen=True)
    config: Train
    train: Path
    validation: Path
    folder: Path
    seed: int
    root: Path
