"""The loss of completions: what tuning descends and perplexity averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from forgeline.errors import ModelError
from forgeline.models.prefix import shared_prefix
from forgeline.models.template import Example, encode_text

if TYPE_CHECKING:
    import torch

    from forgeline.models.load import LanguageModel

# Rows of a training step's part scored at once: more would not be faster.
ROWS = 16
# Tokens scored at once, the longest row's for each: memory, and little attention to padding.
TOKENS = 4096
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
    for batch in _batches(examples):
        lengths = [len(examples[index].completion) for index in batch]
        pieces = token_losses(model, [examples[index] for index in batch]).split(lengths)
        for index, piece in zip(batch, pieces, strict=True):
            losses[index] = (piece.sum().item(), len(piece))
    return [losses[index] for index in range(len(examples))]


def windowed_losses(model: Any, examples: Sequence[Example], window: int, stride: int) -> list[tuple[float, int]]:
    """Return what `completion_losses` does, of examples that may be longer than the model's context."""
    parts = [sliding_windows(example, window, stride) for example in examples]
    losses = iter(completion_losses(model, [part for own in parts for part in own]))
    found = [[next(losses) for _ in own] for own in parts]
    return [(sum(nats for nats, _ in own), sum(tokens for _, tokens in own)) for own in found]


def text_losses(
    language_model: LanguageModel, texts: Sequence[str], window: int, stride: int
) -> list[tuple[float, int]]:
    """Return each text's summed loss in nats and its number of tokens; a long text is scored by a sliding window.

    A start token stands before each text, so that every token is scored, as lm-evaluation-harness has it. `window`
    is in tokens.

    Raises:
        ModelError: if the windows would leave a token without context.
    """
    examples = [encode_text(language_model.tokenizer, text) for text in texts]
    return windowed_losses(language_model.model, examples, window, stride)


def sliding_windows(example: Example, window: int, stride: int) -> list[Example]:
    """Return parts of at most `window` tokens that score every completion token once; all of it if it fits.

    The window moves on by `stride` tokens and scores those that none before it did; what else it holds is their
    context. As transformers' documentation computes the perplexity of fixed-length models.

    Raises:
        ModelError: if the windows would leave a token without context.
    """
    if not 0 < stride < window:
        raise ModelError(f"A window of {window} tokens cannot move on by {stride}: it must be less, and more than 0.")
    ids, scored = [*example.prompt, *example.completion], len(example.prompt)
    parts = []
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        if end > scored:
            parts.append(Example(ids[begin:scored], ids[scored:end]))
            scored = end
        if end == len(ids):
            break
    return parts


def _batches(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Yield the places of examples that are scored together: of similar length, and alike from the start."""
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index]).bit_length(), examples[index].prompt))
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, len(examples[index]))
        if batch and longest * (len(batch) + 1) > TOKENS:
            yield batch
            batch, longest = [], len(examples[index])
        batch.append(index)
    if batch:
        yield batch


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
