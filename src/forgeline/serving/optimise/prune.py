"""Take weights out of a model in place, without training it again."""

from __future__ import annotations

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


def by_neurons(model: Any, share: float) -> None:
    """Take the feed-forward neurons of the least weight out of each layer; the model gets smaller.

    A neuron weighs the product of its three vectors' lengths, for what goes through it is multiplied by each of them.

    Raises:
        ServingError: if the feed-forward layers are not gated ones (`gate_proj`, `up_proj`, `down_proj`).
    """
    import torch

    gated = [layer for layer in model.modules() if hasattr(layer, "gate_proj") and hasattr(layer, "down_proj")]
    if not gated:
        raise ServingError("Neurons are taken out of gated feed-forward layers, and this model has none.")
    config = model.config.get_text_config()
    kept = max(ROUND, round(config.intermediate_size * (1 - share) / ROUND) * ROUND)
    with torch.no_grad():
        for layer in gated:
            into = (layer.gate_proj, layer.up_proj)
            lengths = [part.weight.float().norm(dim=1) for part in into] + [layer.down_proj.weight.float().norm(dim=0)]
            best = torch.stack(lengths).prod(0).topk(kept).indices.sort().values
            for part in into:
                part.weight = torch.nn.Parameter(part.weight[best].contiguous(), requires_grad=False)
                part.out_features = kept
                if part.bias is not None:
                    part.bias = torch.nn.Parameter(part.bias[best].contiguous(), requires_grad=False)
            down = layer.down_proj
            down.weight = torch.nn.Parameter(down.weight[:, best].contiguous(), requires_grad=False)
            down.in_features = kept
    config.intermediate_size = kept
