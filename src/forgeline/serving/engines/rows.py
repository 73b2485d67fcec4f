"""One forward pass over many conversations: their new tokens in one sequence, their keys and values in rows.

Every linear layer sees one matrix of all new tokens, whether a conversation brings one token or a part of its prompt;
only attention knows which row a token belongs to. Nothing is padded but the keys of shorter rows, and what a row
gets does not depend on the rows beside it, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from forgeline.errors import ModelError

NAME = "forgeline_rows"
# Keys are looked at in multiples of so many: with a tail of its own length, a row's sums would be rounded
# differently from when it stands beside a longer one.
UNIT = 64


@dataclass(frozen=True)
class Run:
    """New tokens of one row from a position on, `count` of them; they follow the ones before in the sequence."""

    row: int
    first: int
    count: int

    @property
    def width(self) -> int:
        """How many keys its tokens may look at, in whole units."""
        return -(-(self.first + self.count) // UNIT) * UNIT


@dataclass(frozen=True)
class Span:
    """Neighbouring rows with equally many new tokens, which one attention call serves."""

    row: int
    rows: int
    start: int  # of its tokens in the sequence
    count: int  # of new tokens a row
    width: int


class Plan:
    """What one forward pass brings each row, and the rows' keys and values; pass it to the model as `plan`."""

    def __init__(self, cache: Cache, runs: Sequence[Run], device: torch.device) -> None:
        self.cache = cache
        self.seen = False  # whether the model's attention really asked
        self.spans = list(_spans(runs))
        rows = torch.tensor([run.row for run in runs for _ in range(run.count)])
        self.owners = torch.tensor([place for place, run in enumerate(runs) for _ in range(run.count)]).to(device)
        positions = torch.tensor([run.first + place for run in runs for place in range(run.count)])
        self.rows, self.positions = rows.to(device), positions.to(device)
        ends = torch.tensor([run.count for run in runs]).cumsum(0) - 1
        self.ends = ends.to(device)
        self._hidden: dict[Any, torch.Tensor] = {}
        cache.reach(max(run.width for run in runs))

    def hidden(self, span: Span, share: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return what is added to the scores of a span's queries, (rows, 1, count * share, width): 0 or -inf."""
        key = (span, share, window)
        if key not in self._hidden:  # every layer asks for the same
            tokens = span.rows * span.count
            own = self.positions[span.start : span.start + tokens].view(span.rows, 1, span.count, 1)
            distance = own - torch.arange(span.width, device=like.device)
            out = distance < 0 if window is None else (distance < 0) | (distance >= window)
            bias = torch.zeros(out.shape, dtype=like.dtype, device=like.device).masked_fill_(out, float("-inf"))
            self._hidden[key] = bias if span.count == 1 else bias.repeat_interleave(share, dim=2)
        return self._hidden[key]


class Cache:
    """Keys and values, (rows, groups, width, size) a layer; a row is read up to what was written in it."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._width = 4 * UNIT
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reaches(self, width: int) -> bool:
        """Whether there is room for rows of so many keys."""
        return width <= self._width

    def reach(self, width: int) -> None:
        """Make room for rows of so many keys."""
        if self.reaches(width):
            return
        while self._width < width:
            self._width *= 2
        self._layers = {
            layer: (self._grown(keys), self._grown(values)) for layer, (keys, values) in self._layers.items()
        }

    def write(self, layer: int, plan: Plan, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Add the (1, groups, tokens, size) of a plan's tokens to a layer; return its keys and values."""
        if layer not in self._layers:
            self._layers[layer] = self._empty(key), self._empty(value)
        for stored, new in zip(self._layers[layer], (key, value), strict=True):
            stored[plan.rows, :, plan.positions] = new[0].transpose(0, 1)
        return self._layers[layer]

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Let a row begin with what another begins with."""
        for stored in (part for layer in self._layers.values() for part in layer):
            stored[target, :, :length] = stored[source, :, :length]

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros: what nobody wrote is multiplied by a weight of zero, which not every number survives.
        return like.new_zeros(self._rows, like.shape[1], self._width, like.shape[3])

    def _grown(self, stored: torch.Tensor) -> torch.Tensor:
        grown = stored.new_zeros(*stored.shape[:2], self._width, stored.shape[3])
        grown[:, :, : stored.shape[2]] = stored
        return grown


def in_rows(model: Any) -> Callable[[], None]:
    """Let a model's layers attend along the plan that it is called with; return what undoes it."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME

    def as_before() -> None:
        config._attn_implementation = before

    return as_before


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    plan: Plan,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, tokens, heads, size) attention of (1, heads, tokens, size) queries, each along its row.

    Of an architecture's `options`, soft caps and sliding windows are followed.
    """
    softcap, window = options.get("softcap"), options.get("sliding_window")
    if options.get("s_aux") is not None:
        raise ModelError("attention sinks are not known here")
    plan.seen = True
    keys, values = plan.cache.write(module.layer_idx, plan, key, value)
    heads, groups = query.shape[1], key.shape[1]
    share = heads // groups
    outputs = []
    for span in plan.spans:
        tokens, size = span.rows * span.count, query.shape[3]
        own = query[0, :, span.start : span.start + tokens].reshape(groups, share, span.rows, span.count, size)
        # Heads that share keys and values are folded into the length, so that nothing is repeated.
        folded = own.permute(2, 0, 3, 1, 4).reshape(span.rows, groups, span.count * share, size)
        k, v = (part[span.row : span.row + span.rows, :, : span.width] for part in (keys, values))
        hidden = plan.hidden(span, share, window, query)
        if softcap is None:
            found = scaled_dot_product_attention(folded, k, v, hidden, scale=scaling)
        else:
            scores = softcap * torch.tanh(folded @ k.transpose(2, 3) * (scaling / softcap)) + hidden
            found = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype) @ v
        unfolded = found.view(span.rows, groups, span.count, share, -1).permute(0, 2, 1, 3, 4)
        outputs.append(unfolded.reshape(tokens, heads, -1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


def _spans(runs: Sequence[Run]) -> Iterator[Span]:
    """Join single new tokens of neighbouring rows, unless one row is so long that the others' padding costs more."""
    start = place = 0
    while place < len(runs):
        first, joined = runs[place], 1
        widest = narrowest = first.width
        for run in runs[place + 1 :]:
            wide, narrow = max(widest, run.width), min(narrowest, run.width)
            if not (run.count == first.count == 1 and run.row == first.row + joined and wide <= 4 * narrow):
                break
            widest, narrowest, joined = wide, narrow, joined + 1
        yield Span(first.row, joined, start, first.count, widest)
        start += joined * first.count
        place += joined


AttentionInterface.register(NAME, attend)
