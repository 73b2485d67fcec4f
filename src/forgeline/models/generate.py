"""Greedy batched generation: the way a model is evaluated and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forgeline.models.load import LanguageModel


@dataclass(frozen=True)
class Reply:
    """What the model said: its text, its length in tokens, and whether it ended by itself."""

    text: str
    tokens: int
    stopped: bool


def generate(
    language_model: LanguageModel,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda replies: None,
) -> list[Reply]:
    """Return the greedy reply to each tokenised prompt, in the given order.

    Prompts of similar length share a batch, so that little is spent on padding. `advance` is told
    how many replies each batch brought.
    """
    import torch

    model, tokenizer, stop_ids = language_model.model, language_model.tokenizer, language_model.stop_ids
    replies: dict[int, Reply] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):  # left padding: every row's next token is in one column
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(language_model.device),
                attention_mask=mask.to(language_model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stop_ids,
            )
        for index, tokens in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(tokens) if token in stop_ids), None)
            text = tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
            replies[index] = Reply(text, len(tokens) if end is None else end + 1, end is not None)
        advance(len(batch))
    return [replies[index] for index in range(len(prompts))]
