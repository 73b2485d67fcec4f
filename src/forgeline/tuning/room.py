"""The memory that a run may take, and the settings cut to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forgeline.config.schema import Train
from forgeline.models.fit import fit, free_memory
from forgeline.models.footprint import Shape
from forgeline.models.load import placement, precision


@dataclass(frozen=True)
class Room:
    """Where a process of a run computes, and the bytes it may take there, the model's own weights included."""

    device: Literal["cpu", "cuda"]
    free: float

    @staticmethod
    def of(config: Train) -> Room:
        """Return what is free now, before anything is loaded; processes share a machine's memory, not a GPU's."""
        device = placement(config.device)
        processes = config.distributed.processes if device == "cpu" else 1
        return Room(device, free_memory(device) / processes)

    def cut(self, model: Any, config: Train, lengths: Sequence[int], shared: int) -> Train:
        """Return the settings with `micro_batch` and `activation_checkpointing` decided.

        Args:
            model: the base model's transformers config.
            config: the settings, in which either may be `auto`.
            lengths: the tokens of every training example.
            shared: the leading tokens that all of them share.

        Raises:
            TuningError: if nothing fits: what is needed, what is free, and the keys that help.
        """
        decided = fit(Shape.of(model), config, lengths, self.device, precision(config), self.free, shared)
        choice = {"micro_batch": decided.micro_batch, "activation_checkpointing": decided.checkpointing}
        return config.model_copy(update=choice)
