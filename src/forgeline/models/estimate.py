"""What training a model of the catalogue would take on a machine: memory, hours and money."""

from __future__ import annotations

import time
from dataclasses import dataclass

from forgeline.config.schema import Machine, Method, Train
from forgeline.errors import TuningError
from forgeline.models.fit import fit, free_memory
from forgeline.models.footprint import Batch, Device, Precision, Shape, training_memory


@dataclass(frozen=True)
class Estimate:
    """How a method would run: bytes at the peak, and one example at a time; examples at once, hours and price.

    What does not fit has no examples at once.
    """

    method: Method
    memory: float
    least: float
    fits: bool
    micro_batch: int | None
    checkpointing: bool
    hours: float | None
    price: float | None


def estimate(
    shape: Shape, train: Train, machine: Machine, precision: Precision, price: float, tokens: float | None
) -> Estimate:
    """Return what training with these settings takes, every example `train.max_tokens` long and labelled throughout.

    Args:
        shape: the base model's.
        train: method, batch and lengths.
        machine: where it would run.
        precision: of weights and activations there.
        price: of an hour there.
        tokens: how many are trained on; hours and price are left out without.
    """
    free = machine.memory_gb * 1e9
    one = Batch.of([train.max_tokens], 1)
    least = training_memory(shape, train, one, machine.device, precision, checkpointing=True).total
    try:
        found = fit(shape, train, [train.max_tokens] * train.batch_size, machine.device, precision, free)
        fits, micro_batch, checkpointing, memory = True, found.micro_batch, found.checkpointing, found.needed
    except TuningError:
        fits, micro_batch, checkpointing, memory = False, None, True, least
    if tokens is None or not fits:
        return Estimate(train.method, memory, least, fits, micro_batch, checkpointing, None, None)
    work = shape.flops(train, train.max_tokens) + (2 * shape.linear if checkpointing else 0)  # the second forward pass
    hours = tokens * work / (machine.tflops * 1e12 * machine.utilisation) / 3600
    return Estimate(train.method, memory, least, fits, micro_batch, checkpointing, hours, hours * price)


def this_machine(precision: Precision) -> Machine:
    """Return this machine's free memory and its measured rate of large matrix products, in a second."""
    import torch

    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 1536
    one = torch.ones(side, side, dtype=getattr(torch, precision), device=device)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the GPU
        seconds.append(time.perf_counter() - started)
    return Machine(device=device, memory_gb=free_memory(device) / 1e9, tflops=2 * side**3 / min(seconds) / 1e12)
