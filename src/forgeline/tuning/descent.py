"""AdamW on float32 copies of the trained weights, which may themselves be of less precision or sharded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forgeline.config.schema import Train

if TYPE_CHECKING:
    import torch


class Descent:
    """The trained weights of a model and what the optimiser knows of them.

    Weights that are float32 already are stepped as they are; of others a float32 copy is, and copied back.
    """

    def __init__(self, model: Any, config: Train) -> None:
        import torch

        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.masters = {
            name: weight if weight.dtype == torch.float32 else weight.detach().float().clone()
            for name, weight in self.weights.items()
        }
        self.clip = config.clip_norm
        self.optimizer = torch.optim.AdamW(self.masters.values(), weight_decay=config.weight_decay, fused=True)

    def gradients(self) -> list[torch.Tensor]:
        """Return the gradients of all weights, zero where the loss did not reach one."""
        import torch

        for weight in self.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights.values() if weight.grad is not None]

    def forget(self) -> None:
        """Drop all gradients."""
        for weight in self.weights.values():
            weight.grad = None

    def step(self, rate: float) -> float:
        """Take one step at a learning rate along the gradients, clipped to the norm; return the norm before."""
        import torch

        for name, weight in self.weights.items():
            master = self.masters[name]
            if master is not weight:
                master.grad = weight.grad.float() if weight.grad is not None else None
                weight.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.masters.values(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._publish()
        return float(_whole(norm))

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Return weights and optimiser state, whole and in float32, by name. Collective under sharding."""
        tensors = {f"weight.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state[master].items()}
        return {name: _whole(tensor).contiguous() for name, tensor in tensors.items()}

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """Return the trained weights in their own precision, by name. Collective under sharding."""
        return {name: _whole(weight.detach()).cpu() for name, weight in self.weights.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up the state of a snapshot."""
        for name, master in self.masters.items():
            self.optimizer.state[master] = {
                "step": tensors[f"step.{name}"].clone(),
                "exp_avg": _like(master, tensors[f"exp_avg.{name}"]),
                "exp_avg_sq": _like(master, tensors[f"exp_avg_sq.{name}"]),
            }
        self.set(tensors)

    def set(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the weights alone from a snapshot."""
        import torch

        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(_like(master, tensors[f"weight.{name}"]))
        self._publish()

    def _publish(self) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                if self.masters[name] is not weight:
                    weight.copy_(self.masters[name])


def _is_sharded(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module takes seconds to import


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor that may be sharded over processes."""
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def _like(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor in a copy of its own, sharded and placed as another one is."""
    whole = whole.to(tensor.device, copy=True)
    if not _is_sharded(tensor):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)  # noqa: S101  for the type checker
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements)
