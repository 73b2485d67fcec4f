"""One forward pass over a batch that shares a prefix: a trunk, and branches that attend to it and to themselves.

The trunk's tokens and all rows stand in one sequence, so every linear layer sees one tall matrix and
no token twice; only attention knows which tokens belong together. Exact for attention models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from forgeline.errors import ModelError

NAME = "forgeline_branches"


@dataclass
class Branches:
    """The shape of a sequence: `trunk` tokens, then `rows` branches of `width` tokens each."""

    trunk: int
    rows: int
    width: int
    seen: bool = False  # whether the model's attention really asked

    def positions(self, device: torch.device) -> torch.Tensor:
        """Return the (1, length) positions: every branch goes on where the trunk ends."""
        branch = torch.arange(self.trunk, self.trunk + self.width, device=device)
        return torch.cat([torch.arange(self.trunk, device=device), branch.repeat(self.rows)])[None]


@contextmanager
def branched(model: Any, branches: Branches) -> Iterator[None]:
    """Let a model's layers attend along branches; the model must be called with `branches=branches`.

    Raises:
        ModelError: if the architecture does not take its attention from transformers' interface.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
    if not branches.seen:
        raise ModelError(f"{type(model).__name__} computes its attention by itself and cannot be tuned here.")


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    branches: Branches,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, length, heads, size) attention of (1, heads, length, size) queries along branches.

    Heads that share keys and values are folded into the length, so that nothing is repeated. Of an
    architecture's `options`, soft caps and sliding windows are followed.
    """
    softcap, window = options.get("softcap"), options.get("sliding_window")
    if options.get("s_aux") is not None:
        raise ModelError("A model with attention sinks cannot be tuned here: choose another base model.")
    branches.seen = True
    trunk, rows, width = branches.trunk, branches.rows, branches.width
    groups, size = key.shape[1], query.shape[-1]
    share = query.shape[1] // groups

    def among(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
        """Attend (n, groups, share * tokens, size) queries that start at position `first` of the keys."""
        tokens = q.shape[2] // share
        distance = torch.arange(first, first + tokens, device=q.device)[:, None] - torch.arange(
            k.shape[2], device=q.device
        )
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        scores = (q @ k.transpose(2, 3)) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(hidden.repeat(share, 1), float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.dropout(weights, dropout, train=module.training) @ v

    heads = query[0].view(groups, share, -1, size)
    outputs = []
    if trunk:
        root = heads[:, :, :trunk].reshape(1, groups, -1, size)
        shared = among(root, key[:, :, :trunk], value[:, :, :trunk], 0)
        outputs.append(shared.view(groups * share, trunk, size))
    keys, values = (_along(part, branches) for part in (key, value))
    leaves = heads[:, :, trunk:].view(groups, share, rows, width, size).permute(2, 0, 1, 3, 4)
    found = among(leaves.reshape(rows, groups, -1, size), keys, values, trunk)
    found = found.view(rows, groups * share, width, size).transpose(0, 1)
    outputs.append(found.reshape(groups * share, rows * width, size))
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


def _along(part: torch.Tensor, branches: Branches) -> torch.Tensor:
    """Return what each branch can look at, (rows, groups, trunk + width, size), of (1, groups, length, size)."""
    groups, size = part.shape[1], part.shape[3]
    trunk = part[:, :, : branches.trunk].expand(branches.rows, -1, -1, -1)
    own = part[0, :, branches.trunk :].view(groups, branches.rows, branches.width, size).transpose(0, 1)
    return torch.cat([trunk, own], dim=2)


AttentionInterface.register(NAME, attend)
