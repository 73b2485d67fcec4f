"""Cut a batch so that training fits into the memory that is free, or say which keys would make it fit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forgeline.config.schema import Train
from forgeline.errors import TuningError
from forgeline.models.footprint import Batch, Device, Precision, Shape, training_memory


@dataclass(frozen=True)
class Fit:
    """How a batch is cut so that training fits: examples at once, whether activations are computed twice, bytes."""

    micro_batch: int
    checkpointing: bool
    needed: float


def fit(
    shape: Shape,
    train: Train,
    lengths: Sequence[int],
    device: Device,
    precision: Precision,
    free: float,
    shared: int = 0,
) -> Fit:
    """Return the largest part of a batch that fits into `free` bytes, without checkpointing if any does.

    A part and a checkpointing that `train` sets are taken as they are.

    Args:
        shape: the base model's.
        train: the settings; `micro_batch` and `activation_checkpointing` may be `auto`.
        lengths: the tokens of every training example; the longest of them must fit together.
        device: where it runs.
        precision: of weights and activations.
        free: bytes free before the model is loaded; if it is already, add its weights.
        shared: the leading tokens that all examples share.

    Raises:
        TuningError: if nothing fits: what is needed, what is free, and what each key would bring it to.
    """

    def needs(rows: int, checkpointing: bool, settings: Train = train, limit: int = max(lengths)) -> float:
        batch = Batch.of([min(length, limit) for length in lengths], rows, min(shared, limit - 1))
        return training_memory(shape, settings, batch, device, precision, checkpointing).total

    parts, fixed = _parts(train), train.activation_checkpointing
    for checkpointing in (False, True) if fixed == "auto" else (fixed,):
        for rows in parts:
            if (needed := needs(rows, checkpointing)) <= free:
                return Fit(rows, checkpointing, needed)
    rows, checkpointing = parts[-1], fixed is not False
    least, half = needs(rows, checkpointing), max(1, max(lengths) // 2)
    changes = {
        "train.micro_batch=1": needs(1, checkpointing),
        "train.activation_checkpointing=true": needs(rows, True),
        f"train.max_tokens={half}": needs(rows, checkpointing, limit=half),
    }
    if train.method != "scratch":  # a new model has no base to adapt
        for method in ("lora", "qlora"):
            changes[f"train.method={method}"] = needs(rows, checkpointing, train.model_copy(update={"method": method}))
    helpful = [f"{key} needs {gigabytes(needed)}" for key, needed in changes.items() if needed < 0.99 * least]
    raise TuningError(
        f"Training needs {gigabytes(least)} of memory and {gigabytes(free)} is free: choose a smaller model or a "
        f"larger machine{'; ' if helpful else ''}{', '.join(helpful)}."
    )


def _parts(train: Train) -> list[int]:
    """Return the sizes that a batch may be cut to, largest first."""
    team = train.distributed.processes * train.distributed.nodes
    rows = math.ceil(train.batch_size / team)  # of this process
    if train.micro_batch != "auto":
        return [min(train.micro_batch, rows)]
    return sorted({math.ceil(rows / pieces) for pieces in range(1, rows + 1)}, reverse=True)


def gigabytes(size: float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / 1e9:.1f} GB"


def free_memory(device: Device) -> int:
    """Return the bytes that training may still take: of the GPU, or of this machine and its container."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    folder = Path("/sys/fs/cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    if limit.is_file() and limit.read_text().strip().isdigit():  # a container's limit, which psutil does not see
        cached = re.search(r"^inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        taken = int(used.read_text()) - (int(cached[1]) if cached else 0)  # files that can be read again do not count
        free = min(free, int(limit.read_text()) - taken)
    return free
