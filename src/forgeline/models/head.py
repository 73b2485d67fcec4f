"""The head and the cross-entropy in one node: the scores of the whole vocabulary never exist at once.

As Liger Kernel (Hsu et al., 2024) does on GPUs: the gradient is made in the forward pass, some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

SCORES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}  # bytes of scores at once; rows enough for a full-speed product


class HeadLoss(torch.autograd.Function):
    """Σ weight × cross-entropy of the head's scores."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, learn: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted sum and each token's loss; states are (tokens, size), head (vocabulary, size)."""
        losses = torch.empty(len(labels), device=states.device)
        to_states = torch.empty_like(states) if learn else None
        to_head = torch.zeros_like(head, dtype=torch.float32) if learn and ctx.needs_input_grad[1] else None
        step = max(1, SCORES[states.device.type] // (4 * len(head)))
        for start in range(0, len(labels), step):
            part = slice(start, start + step)
            rows = torch.arange(len(labels[part]), device=states.device)
            scores = (states[part] @ head.T).float()
            top = scores.amax(1, keepdim=True)
            of_label = scores[rows, labels[part]] - top[:, 0]
            total = scores.sub_(top).exp_().sum(1, keepdim=True)
            losses[part] = total[:, 0].log() - of_label
            if to_states is None:
                continue
            scores.mul_(weights[part, None] / total)  # the probabilities, weighted
            scores[rows, labels[part]] -= weights[part]
            gradient = scores.to(states.dtype)
            torch.mm(gradient, head, out=to_states[part])
            if to_head is not None:
                to_head += gradient.T @ states[part]
        ctx.save_for_backward(to_states, to_head)
        ctx.mark_non_differentiable(losses)
        ctx.dtype = head.dtype
        return losses @ weights, losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of states and head."""
        to_states, to_head = ctx.saved_tensors
        by = gradients[0]
        return to_states * by, None if to_head is None else (to_head * by).to(ctx.dtype), None, None, None


@dataclass
class Taken:
    """What the head gave: every token's loss, and their weighted sum."""

    losses: torch.Tensor
    total: torch.Tensor


@contextmanager
def takes_loss(model: Any, labels: torch.Tensor, weights: torch.Tensor) -> Iterator[Taken | None]:
    """Let a model's head return the loss as its scores; yields None if the head is not a plain product.

    The caller must see that what the model returns is `total` itself: some architectures cap or scale
    what their head gives.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        yield None
        return
    taken = Taken(labels, labels)

    def forward(states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        taken.total, taken.losses = HeadLoss.apply(flat, head.weight, labels, weights, torch.is_grad_enabled())
        return taken.total

    head.forward = forward
    try:
        yield taken
    finally:
        del head.forward
