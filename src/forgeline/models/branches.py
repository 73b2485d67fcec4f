"""One forward pass over a batch without padding: a trunk that all rows share, and a branch for each row.

The trunk's tokens and all rows stand in one sequence, so every linear layer sees one tall matrix, no
token twice and none that is padding; only attention knows which tokens belong together: a branch sees
the trunk and itself. Exact for attention models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from forgeline.errors import ModelError

NAME = "forgeline_branches"
# On a processor the backward pass of scaled_dot_product_attention takes three times as long as plain
# products for short rows; beyond this many keys the plain scores would take more memory than they save time.
SHORT = 1024


class Branches:
    """The shape of a packed sequence: `trunk` tokens, then branches of the given lengths, one after the other."""

    def __init__(self, trunk: int, lengths: Sequence[int], device: torch.device) -> None:
        self.trunk, self.lengths = trunk, lengths
        self.seen = False  # whether the model's attention really asked
        width = max(lengths)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        column = torch.arange(width)
        real = column < torch.tensor(lengths)[:, None]
        # Padding exists inside attention alone: it stands right of every query that counts, so none sees it.
        self.padded = (starts[:, None] + column.clamp(max=width)).where(real, starts[:, None]).flatten().to(device)
        self.kept = real.flatten().nonzero()[:, 0].to(device)
        self.rows, self.width = len(lengths), width
        self.even = self.rows * width == sum(lengths)
        self.positions = torch.cat([torch.arange(trunk), (trunk + column).expand(self.rows, -1)[real]])[None].to(device)
        self._hidden: dict[Any, torch.Tensor] = {}

    def hidden(self, first: int, queries: int, share: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return what is added to the scores of `share` heads' queries from position `first` on: 0, or -inf."""
        key = (first, queries, share, window)
        if key not in self._hidden:  # every layer asks for the same
            keys = torch.arange(first + queries, device=like.device)
            distance = keys[first:, None] - keys
            out = distance < 0 if window is None else (distance < 0) | (distance >= window)
            bias = torch.zeros(out.shape, dtype=like.dtype, device=like.device).masked_fill_(out, float("-inf"))
            self._hidden[key] = bias.repeat(share, 1)
        return self._hidden[key]


class Pad(torch.autograd.Function):
    """Lay (heads, tokens, size) branches side by side: (rows, heads, width, size)."""

    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, branches: Branches) -> torch.Tensor:
        """Return the rows; what is padding repeats a row's first token."""
        ctx.branches = branches
        heads, _, size = packed.shape
        rows = packed if branches.even else packed.index_select(1, branches.padded)
        return rows.reshape(heads, branches.rows, branches.width, size).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of the packed branches; that of padding is zero, because no query sees it."""
        return _pack(gradients[0], ctx.branches), None


class Pack(torch.autograd.Function):
    """Take the padding out again: the inverse of Pad."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, branches: Branches) -> torch.Tensor:
        """Return the (heads, tokens, size) branches of (rows, heads, width, size)."""
        ctx.branches = branches
        return _pack(rows, branches)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of the rows, zero where they are padding."""
        branches, gradient = ctx.branches, gradients[0]
        heads, _, size = gradient.shape
        if not branches.even:
            full = gradient.new_zeros(heads, branches.rows * branches.width, size)
            gradient = full.index_copy_(1, branches.kept, gradient)
        return gradient.reshape(heads, branches.rows, branches.width, size).transpose(0, 1), None


def _pack(rows: torch.Tensor, branches: Branches) -> torch.Tensor:
    flat = rows.transpose(0, 1).reshape(rows.shape[1], branches.rows * branches.width, rows.shape[3])
    return flat if branches.even else flat.index_select(1, branches.kept)


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

    Of an architecture's `options`, soft caps and sliding windows are followed.
    """
    softcap, window = options.get("softcap"), options.get("sliding_window")
    if options.get("s_aux") is not None:
        raise ModelError("A model with attention sinks cannot be tuned here: choose another base model.")
    branches.seen = True
    trunk = branches.trunk
    plain = query.device.type == "cpu" and trunk + branches.width <= SHORT

    def among(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: int) -> torch.Tensor:
        """Attend (n, heads, tokens, size) queries that start at position `first` of (n, groups, keys, size)."""
        tokens = q.shape[2]
        if not plain and softcap is None and (window is None or k.shape[2] <= window):
            bias = causal_lower_right(tokens, k.shape[2])
            chance = dropout if module.training else 0.0
            return scaled_dot_product_attention(q, k, v, bias, chance, scale=scaling, enable_gqa=True)
        # Heads that share keys and values are folded into the length, so that nothing is repeated.
        share = q.shape[1] // k.shape[1]
        folded = q.reshape(-1, share * tokens, q.shape[3])
        keys, values = (part.reshape(len(folded), -1, part.shape[3]) for part in (k, v))
        hidden = branches.hidden(first, tokens, share, window, q)
        if softcap is None:
            scores = torch.baddbmm(hidden, folded, keys.transpose(1, 2), alpha=scaling)
        else:
            scores = softcap * torch.tanh(folded @ keys.transpose(1, 2) * (scaling / softcap)) + hidden
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return (torch.dropout(weights, dropout, train=module.training) @ values).view(q.shape)

    heads = query[0]
    outputs = []
    if trunk:
        outputs.append(among(query[:, :, :trunk], key[:, :, :trunk], value[:, :, :trunk], 0)[0])
    keys, values = (_along(part, branches) for part in (key, value))
    leaves = among(Pad.apply(heads[:, trunk:], branches), keys, values, trunk)
    outputs.append(Pack.apply(leaves, branches))
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


def _along(part: torch.Tensor, branches: Branches) -> torch.Tensor:
    """Return what each branch can look at, (rows, groups, trunk + width, size), of (1, groups, length, size)."""
    own: torch.Tensor = Pad.apply(part[0, :, branches.trunk :], branches)
    if not branches.trunk:
        return own
    trunk = part[:, :, : branches.trunk].expand(branches.rows, -1, -1, -1)
    return torch.cat([trunk, own], dim=2)


AttentionInterface.register(NAME, attend)
