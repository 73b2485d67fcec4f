"""The loss of completions: what tuning descends and perplexity averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from forgeline.models.prefix import shared_prefix
from forgeline.models.template import Example

if TYPE_CHECKING:
    import torch

# Rows scored at once: more would not be faster.
ROWS = 16
# Models found to change the scores after their head (a soft cap, a scale), so that the head cannot take the loss.
_SCALED: WeakSet[Any] = WeakSet()


def total_weight(examples: Sequence[Example]) -> float:
    """Return what the completion tokens of some examples weigh together: the divisor of their mean loss."""
    return sum(example.weight * len(example.completion) for example in examples)


def batch_loss(model: Any, batch: Sequence[Example], total: float) -> torch.Tensor:
    """Return the batch's share of a weighted mean over tokens that weigh `total`; differentiable.

    A token counts by its example's weight: an example of weight 2 counts like the same example twice. The
    shares of the parts of a larger batch add up to its mean, so accumulation is exact.
    """
    import torch

    counts = torch.tensor([len(example.completion) for example in batch])
    weights = torch.tensor([example.weight / total for example in batch]).repeat_interleave(counts)
    return _losses(model, batch, weights)[1]


def token_losses(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Return the cross-entropy of every completion token of a batch, in order; float32, without a gradient."""
    import torch

    with torch.no_grad():
        return _losses(model, batch, None)[0]


def completion_losses(model: Any, examples: Sequence[Example]) -> list[tuple[float, int]]:
    """Return each completion's summed loss in nats and its number of tokens, in the given order."""
    losses: dict[int, tuple[float, int]] = {}
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        lengths = [len(examples[index].completion) for index in batch]
        pieces = token_losses(model, [examples[index] for index in batch]).split(lengths)
        for index, piece in zip(batch, pieces, strict=True):
            losses[index] = (piece.sum().item(), len(piece))
    return [losses[index] for index in range(len(examples))]


def _losses(model: Any, batch: Sequence[Example], weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of every completion token, and their sum by weight.

    No compute goes to what carries no label: rows are packed without padding; the vocabulary is only
    scored where a completion token is predicted, some tokens at a time; and the prefix that all prompts
    share (system turn, instruction) is read once for the whole batch. All three are exact; with dropout,
    rows share the prefix's noise.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from forgeline.models.branches import Branches, branched
    from forgeline.models.head import takes_loss

    device = next(model.parameters()).device
    shared = shared_prefix([example.prompt for example in batch])
    # The last token predicts nothing.
    rows = [[*example.prompt[shared:], *example.completion[:-1]] for example in batch]
    branches = Branches(shared, [len(row) for row in rows], device)
    ids, start = list(batch[0].prompt[:shared]), shared
    places: list[int] = []
    for row, example in zip(rows, batch, strict=True):
        ids += row
        start += len(row)
        places += range(start - len(example.completion), start)
    labels = torch.tensor([token for example in batch for token in example.completion], device=device)
    weights = torch.ones(len(labels)) if weights is None else weights
    weights = weights.to(device)
    inputs = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": branches.positions,
        "logits_to_keep": torch.tensor(places, device=device),
        "use_cache": False,
        "branches": branches,
    }
    if model not in _SCALED:
        with branched(model, branches), takes_loss(model, labels, weights) as taken:
            if taken is not None:
                given = model(**inputs).logits
                if given is taken.total:
                    return taken.losses, given
                _SCALED.add(model)
    with branched(model, branches):
        losses = cross_entropy(model(**inputs).logits[0].float(), labels, reduction="none")
    return losses.detach(), losses @ weights
