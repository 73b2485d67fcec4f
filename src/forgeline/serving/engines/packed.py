"""Weights in the order in which a processor multiplies a few rows by them, laid out once instead of at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS = 8  # how many the layout is for; other numbers are right too


def pack(model: Any) -> Callable[[], None]:
    """Lay out the weights of a model's linear layers for oneDNN, where it is what multiplies; return what undoes it.

    In bfloat16 these products alone are the same bit for bit, and a token's do not depend on how many others there are;
    they take half the time. The plain weights are freed with what undoes it.
    """
    import torch

    layers = [module for module in model.modules() if type(module) is torch.nn.Linear and _is_packable(module.weight)]
    plain = [layer.weight for layer in layers]
    for layer in layers:
        _pack(layer)

    def unpack() -> None:
        for layer, weight in zip(layers, plain, strict=True):
            layer.weight = weight
            del layer.forward

    return unpack


def _is_packable(weight: torch.Tensor) -> bool:
    import torch

    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _pack(linear: torch.nn.Linear) -> None:
    import torch

    # What torch.compile uses for frozen weights (torch 2.13, inductor's mkldnn_fusion).
    packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
    bias = linear.bias

    def forward(states: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
        return product

    linear.forward = forward  # type: ignore[assignment, method-assign]
    # Its shape is all that is left, in a new parameter: the old one may be the embedding's too.
    linear.weight = torch.nn.Parameter(linear.weight.detach().to("meta"), requires_grad=False)
