"""The loss of completions: what tuning descends and perplexity averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forgeline.models.prefix import shared_prefix
from forgeline.models.template import Example

if TYPE_CHECKING:
    import torch

# Rows scored at once: more would not be faster, and the vocabulary's scores of each token take memory.
ROWS = 16


def token_losses(model: Any, batch: Sequence[Example], pad_id: int) -> torch.Tensor:
    """Return the cross-entropy of every completion token of a batch, in order; float32, differentiable.

    No compute goes to what carries no label: rows are padded on the right, which a causal model
    never looks at, so no padding mask is needed; the vocabulary is only scored where a completion
    token is predicted; and the prefix that all prompts share (system turn, instruction) is read
    once for the whole batch. All three are exact; with dropout, rows share the prefix's noise.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from forgeline.models.branches import Branches, branched

    device = next(model.parameters()).device
    shared = shared_prefix([example.prompt for example in batch])
    width = max(len(example) for example in batch) - shared - 1  # the last token predicts nothing
    ids = torch.full((len(batch), width), pad_id)
    predicts = torch.zeros((len(batch), width), dtype=torch.bool)
    for row, example in enumerate(batch):
        tokens = torch.tensor([*example.prompt, *example.completion[:-1]])[shared:]
        ids[row, : len(tokens)] = tokens
        predicts[row, len(example.prompt) - shared - 1 : len(tokens)] = True
    labels = torch.tensor([token for example in batch for token in example.completion], device=device)

    branches = Branches(shared, len(batch), width)
    sequence = torch.cat([torch.tensor(batch[0].prompt[:shared], dtype=torch.long), ids.flatten()])[None].to(device)
    places = shared + predicts.flatten().nonzero()[:, 0].to(device)
    with branched(model, branches):
        logits = model(
            input_ids=sequence,
            position_ids=branches.positions(device),
            logits_to_keep=places,
            use_cache=False,
            branches=branches,
        ).logits
    return cross_entropy(logits[0].float(), labels, reduction="none")


def mean_loss(losses: torch.Tensor, batch: Sequence[Example]) -> torch.Tensor:
    """Return the mean of a batch's token losses, in which a token counts by its example's weight.

    An example of weight 2 counts like the same example twice; weights of a batch are relative to each other.
    """
    import torch

    if all(example.weight == 1 for example in batch):
        return losses.mean()
    weights = torch.tensor([example.weight for example in batch], device=losses.device)
    counts = torch.tensor([len(example.completion) for example in batch], device=losses.device)
    by_token = weights.repeat_interleave(counts)
    return (losses * by_token).sum() / by_token.sum()


def completion_losses(model: Any, examples: Sequence[Example], pad_id: int) -> list[tuple[float, int]]:
    """Return each completion's summed loss in nats and its number of tokens, in the given order."""
    import torch

    losses: dict[int, tuple[float, int]] = {}
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        lengths = [len(examples[index].completion) for index in batch]
        with torch.inference_mode():
            pieces = token_losses(model, [examples[index] for index in batch], pad_id).split(lengths)
        for index, piece in zip(batch, pieces, strict=True):
            losses[index] = (piece.sum().item(), len(piece))
    return [losses[index] for index in range(len(examples))]
