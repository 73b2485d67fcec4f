"""Checkpoints that a kill at any moment leaves whole: a folder appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.errors import TuningError

if TYPE_CHECKING:
    import torch


@dataclass
class Checkpoint:
    """The state after `step` optimiser steps: float32 tensors by name, and the tokens seen so far."""

    step: int
    tokens: int
    seconds: float
    tensors: dict[str, torch.Tensor]


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as `folder/step-N`, then remove the ones before it.

    Raises:
        TuningError: if the disk is full; the checkpoint before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = folder / f"step-{checkpoint.step:06d}"
    partial = folder / "step.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(checkpoint.tensors, partial / "state.safetensors")
    except SafetensorError as error:
        raise TuningError(
            f"The checkpoint of step {checkpoint.step} cannot be written to {folder} ({error}): free some space and "
            "run the command again; it goes on from the checkpoint before."
        ) from error
    progress = {"step": checkpoint.step, "tokens": checkpoint.tokens, "seconds": checkpoint.seconds}
    (partial / "progress.json").write_text(json.dumps(progress))
    os.replace(partial, target)
    for older in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(older)


def load(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint in a folder, or None."""
    from safetensors.torch import load_file

    newest = max(folder.glob("step-*"), default=None)
    if newest is None:
        return None
    progress = json.loads((newest / "progress.json").read_text())
    return Checkpoint(tensors=load_file(newest / "state.safetensors"), **progress)


def clear(folder: Path) -> None:
    """Remove all checkpoints of a finished run."""
    for path in folder.glob("step*"):
        shutil.rmtree(path)
