"""Layers in one autograd node each: fewer passes over memory, and less kept for the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
GATED = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}


class LowRankLinear(torch.autograd.Function):
    """x Wᵀ + s (x Aᵀ) Bᵀ for a frozen W, its additions done by the matrix products themselves.

    Keeps the input and its rank-r projection, where separate operations keep three more tensors of
    the output's size.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, a: torch.Tensor, b: torch.Tensor, s: float) -> torch.Tensor:
        """Return the layer's output; x is (…, in), w (out, in), a (r, in), b (out, r)."""
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.T
        ctx.save_for_backward(rows, w, a, b, low)
        ctx.scaling, ctx.shape = s, x.shape
        return (rows @ w.T).addmm_(low, b.T, alpha=s).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, a and b; w is frozen."""
        rows, w, a, b, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        gradient_low = (gradient @ b).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = (gradient @ w).addmm_(gradient_low, a).view(ctx.shape)
        gradient_b = (low.T @ gradient).mul_(ctx.scaling).T
        return gradient_x, None, gradient_low.T @ rows, gradient_b, None


class RmsNorm(torch.autograd.Function):
    """x / rms(x) · w (Zhang and Sennrich, 2019); keeps the input and one number a token."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
        """Return the normalised tokens; x is (…, size), w (size,)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, w, inverse)
        output: torch.Tensor = (x * inverse).to(x.dtype).mul_(w)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x and w."""
        x, w, inverse = ctx.saved_tensors
        gradient = gradients[0]
        to_w = None
        if ctx.needs_input_grad[1]:
            to_w = (gradient * (x * inverse)).flatten(0, -2).sum(0).to(w.dtype)
        to_x = (gradient * w).float()
        along = (to_x * x).mean(-1, keepdim=True).mul_(inverse.square())
        return to_x.addcmul_(x.float(), along, value=-1).mul_(inverse).to(x.dtype), to_w, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) · up (Shazeer, 2020); keeps its two inputs."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return the product of the two tensors of one shape."""
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        gradient = gradients[0]
        to_up = functional.silu(gate).mul_(gradient)
        return torch.ops.aten.silu_backward(gradient * up, gate), to_up


def fuse(model: Any) -> None:
    """Let a model's plain layers compute in one node each; others stay as they are.

    A LoRA layer is plain if its base is an unquantised linear layer without bias and its adapter has
    neither dropout nor a variant such as DoRA; a norm and a gated layer, if they are built as Llama's.
    """
    for layer in model.modules():
        if isinstance(layer, Linear) and type(layer.base_layer) is torch.nn.Linear:
            [name] = layer.active_adapters
            dropout = not isinstance(layer.lora_dropout[name], torch.nn.Identity)
            if layer.base_layer.bias is None and not dropout and name not in layer.lora_variant:
                layer.forward = partial(_low_rank, layer, name)
        elif type(layer).__name__ in NORMS:
            layer.forward = partial(_norm, layer)
        elif type(layer).__name__ in GATED and layer.config.hidden_act == "silu":
            layer.forward = partial(_gated, layer)


# The weights are looked up at every call: sharded training puts others in their place.


def _low_rank(layer: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    output: torch.Tensor = LowRankLinear.apply(x, layer.base_layer.weight, a, b, layer.scaling[name])
    return output


def _norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = RmsNorm.apply(x, layer.weight, layer.variance_epsilon)
    return output


def _gated(layer: Any, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = layer.down_proj(SwiGlu.apply(layer.gate_proj(x), layer.up_proj(x)))
    return output
