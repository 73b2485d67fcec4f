"""Take weights out of a model in place, without training it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from forgeline.errors import ServingError

ROUND = 32  # neurons: matrix libraries, and GGUF's blocks, take whole blocks of so many


def by_magnitude(model: Any, share: float) -> None:
    """Set the smallest weights of each matrix between embeddings and head to zero (Han et al., 2015)."""
    import torch

    head = model.get_output_embeddings()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer is not head:
                size = layer.weight.abs().flatten().float()
                limit = size.kthvalue(max(1, round(share * size.numel()))).values
                layer.weight[layer.weight.abs() <= limit] = 0


def by_neurons(model: Any, share: float, conversations: Iterable[Sequence[int]]) -> None:
    """Take the feed-forward neurons that say least in tokenised conversations out of a model, which gets smaller.

    A neuron says what went through it, by the sum of squares, times the length of what it adds (Sun et al., 2024, for
    whole neurons). Its weights alone do not tell: a few neurons of small weight carry a model.

    Raises:
        ServingError: if the feed-forward layers are not gated ones (`gate_proj`, `up_proj`, `down_proj`).
    """
    import torch

    gated = [layer for layer in model.modules() if hasattr(layer, "gate_proj") and hasattr(layer, "down_proj")]
    if not gated:
        raise ServingError("Neurons are taken out of gated feed-forward layers, and this model has none.")
    config = model.config.get_text_config()
    kept = max(ROUND, round(config.intermediate_size * (1 - share) / ROUND) * ROUND)
    power = _power(model, gated, conversations)
    with torch.no_grad():
        for layer in gated:
            lengths = layer.down_proj.weight.float().norm(dim=0)
            best = (power[layer].sqrt() * lengths).topk(kept).indices.sort().values
            for part in (layer.gate_proj, layer.up_proj):
                part.weight = torch.nn.Parameter(part.weight[best].contiguous(), requires_grad=False)
                part.out_features = kept
                if part.bias is not None:
                    part.bias = torch.nn.Parameter(part.bias[best].contiguous(), requires_grad=False)
            down = layer.down_proj
            down.weight = torch.nn.Parameter(down.weight[:, best].contiguous(), requires_grad=False)
            down.in_features = kept
    config.intermediate_size = kept


def _power(model: Any, gated: Sequence[Any], conversations: Iterable[Sequence[int]]) -> dict[Any, Any]:
    """Return the (neurons,) sums of squares of what goes through each layer's neurons."""
    import torch

    power = {layer: torch.zeros(layer.down_proj.in_features, device=model.device) for layer in gated}

    def heard(layer: Any) -> Any:
        def hear(down: Any, given: tuple[torch.Tensor]) -> None:
            power[layer] += given[0].float().square().flatten(0, -2).sum(0)

        return layer.down_proj.register_forward_pre_hook(hear)

    hooks = [heard(layer) for layer in gated]
    with torch.inference_mode():
        for tokens in conversations:
            model(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return power
