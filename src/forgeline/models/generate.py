"""Greedy batched generation: the way a model is evaluated and compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from forgeline.models.load import LanguageModel
from forgeline.models.prefix import read_prefix, shared_prefix


@dataclass(frozen=True)
class Reply:
    """What the model said: its text, its length in tokens, and whether it ended by itself.

    `waited` is the seconds until its whole batch was there, `seconds` its even share of them; both differ from
    run to run, and do not count when replies are compared.
    """

    text: str
    tokens: int
    stopped: bool
    waited: float = field(compare=False)
    seconds: float = field(compare=False)


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
        began, batch = time.perf_counter(), order[start : start + batch_size]
        shared = shared_prefix([prompts[index] for index in batch])
        width = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(batch):
            # Padding stands between the shared prefix and the rest: every row's next token is in one column.
            rest = width - (len(prompts[index]) - shared)
            ids[row, :shared], ids[row, rest:] = torch.tensor(prompts[index]).split([shared, width - rest])
            mask[row, :shared] = mask[row, rest:] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(language_model.device),
                attention_mask=mask.to(language_model.device),
                past_key_values=read_prefix(model, prompts[batch[0]][:shared], len(batch)) if shared else None,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stop_ids,
            )
        generated = output[:, width:].tolist()
        waited = time.perf_counter() - began
        for index, tokens in zip(batch, generated, strict=True):
            end = next((place for place, token in enumerate(tokens) if token in stop_ids), None)
            text = tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
            length = len(tokens) if end is None else end + 1
            replies[index] = Reply(text, length, end is not None, waited, waited / len(batch))
        advance(len(batch))
    return [replies[index] for index in range(len(prompts))]
