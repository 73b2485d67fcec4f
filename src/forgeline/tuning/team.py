"""The processes that train one model together; alone, a process is a team of one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from forgeline.config.schema import Train

if TYPE_CHECKING:
    import torch


Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Team:
    """This process's rank among `size`, and how they share the model."""

    rank: int = 0
    size: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    @property
    def leads(self) -> bool:
        """Whether this process writes files and tells."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        """Whether each process holds a share of the model only."""
        return self.size > 1 and self.strategy == "fsdp"

    def share(self, things: Sequence[Thing]) -> list[Thing]:
        """Return this process's share of some things."""
        return list(things[self.rank :: self.size])

    def add(self, *numbers: float) -> list[float]:
        """Return sums over all processes."""
        if self.size == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return [float(number) for number in total]

    def add_gradients(self, gradients: Sequence[torch.Tensor]) -> None:
        """Add up the gradients of all processes in place; sharded ones have been added already."""
        if self.size == 1 or self.shards:
            return
        import torch.distributed as dist

        for waiting in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            waiting.wait()

    def shard(self, model: Any) -> None:
        """Leave each process a share of every layer's weights, gathered while that layer computes."""
        if not self.shards:
            return
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for layer in layers(model):
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)


def layers(model: Any) -> list[Any]:
    """Return a model's decoder layers."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def joined(config: Train) -> Iterator[Team]:
    """Join the team that torchrun's environment describes, or be alone."""
    if "RANK" not in os.environ:
        yield Team()
        return
    import torch
    import torch.distributed as dist

    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), config.distributed.strategy)
    finally:
        dist.destroy_process_group()
