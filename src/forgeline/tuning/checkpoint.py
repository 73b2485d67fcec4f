"""Checkpoints that a kill at any moment leaves whole: a folder appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.errors import TuningError
from forgeline.lineage import file_digest

if TYPE_CHECKING:
    import torch

STATE, PROGRESS = "state.safetensors", "progress.json"
BEST = "best."
KEPT = 2  # the newest, and the one before it should that be damaged


@dataclass
class Checkpoint:
    """The state after `step` optimiser steps. The step gives the place in the data, the rate and the dice."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # of every step so far, in nats a token
    validation: list[float] = field(default_factory=list)  # every validation loss so far
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # weights and optimiser state, by name
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of the best validation loss, by name


def save(folder: Path, checkpoint: Checkpoint, good: int = 0) -> None:
    """Write a checkpoint as `folder/step-N`, on disk before it is named.

    The newest two are kept, and the newest up to the step `good`: there the loss was known to be well.

    Raises:
        TuningError: if the disk is full; the checkpoint before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target, partial = folder / f"step-{checkpoint.step:06d}", folder / "step.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    progress = {name: value for name, value in vars(checkpoint).items() if name not in {"tensors", "best"}}
    try:
        best = {f"{BEST}{name}": tensor for name, tensor in checkpoint.best.items()}
        save_file({**checkpoint.tensors, **best}, partial / STATE)
        progress["digest"] = file_digest(partial / STATE)
        (partial / PROGRESS).write_text(json.dumps(progress))
        for name in (STATE, PROGRESS):
            with (partial / name).open("rb") as file:
                os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        raise TuningError(
            f"The checkpoint of step {checkpoint.step} cannot be written to {folder} ({error}): free some space and "
            "run the command again; it goes on from the checkpoint before."
        ) from error
    os.replace(partial, target)
    before = _all(folder)[:-KEPT]
    well = [path for path in before if _step(path) <= good]
    for older in before:
        if older not in well[-1:]:
            shutil.rmtree(older)


def load(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint in a folder, or None.

    Raises:
        TuningError: if it is damaged, with what to delete to go on from the one before.
    """
    from safetensors.torch import load_file

    if not (found := _all(folder)):
        return None
    newest = found[-1]
    try:
        progress = json.loads((newest / PROGRESS).read_text())
        digest = progress.pop("digest")
        whole = digest == file_digest(newest / STATE)
        tensors = load_file(newest / STATE) if whole else {}
        best = {name.removeprefix(BEST): tensors.pop(name) for name in [*tensors] if name.startswith(BEST)}
        restored = Checkpoint(**progress, tensors=tensors, best=best) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        restored = None
    if restored is None:
        before = f"from {found[-2].name}" if len(found) > 1 else "from the start"
        raise TuningError(
            f"{newest} is damaged: its files are missing, cut short or altered. Delete that folder and run the "
            f"command again; it goes on {before}."
        )
    return restored


def drop(folder: Path, after: int) -> Path | None:
    """Remove the checkpoints of steps after a given one; return the newest that is left, or None."""
    for path in _all(folder):
        if _step(path) > after:
            shutil.rmtree(path)
    return max(_all(folder), default=None)


def clear(folder: Path) -> None:
    """Remove all checkpoints of a finished run."""
    for path in folder.glob("step*"):
        shutil.rmtree(path)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
