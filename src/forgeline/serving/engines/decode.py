"""One reply, token by token: a key-value cache, greedy or sampled, as quick as one row can be."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from statistics import median
from typing import TYPE_CHECKING

from forgeline.models import LanguageModel
from forgeline.serving.engines import GenerationRequest

if TYPE_CHECKING:
    import torch


def decode(
    language_model: LanguageModel, prompt: list[int], request: GenerationRequest, threads: int | None = None
) -> Generator[int]:
    """Yield the ids that continue a tokenised prompt, stop ids included, without end.

    `threads` is how many processor threads a single-token step uses; none leaves it to torch.
    """
    import torch
    from transformers import DynamicCache

    model, device = language_model.model, language_model.device
    cache = DynamicCache(config=model.config)
    dice = torch.Generator(device).manual_seed(request.seed) if request.seed is not None else None
    step = torch.tensor([prompt], device=device)
    # An index, not the number 1: a slice of the hidden states is multiplied 20 times slower on a processor.
    last = torch.tensor([-1], device=device)
    while True:
        with torch.inference_mode(), _quick_rows(step, threads):
            logits = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=last).logits[0, -1]
            token = _choose(logits, request, dice)
        yield token
        step = torch.tensor([[token]], device=device)


def fastest_threads(language_model: LanguageModel) -> int | None:
    """Return how many processor threads decode fastest, or None where the model is not on a processor.

    A step for one row is so small that more threads may cost more than they bring.
    """
    import torch

    if language_model.device.type != "cpu":
        return None
    request = GenerationRequest(messages=[], max_tokens=1, temperature=0)
    seconds: dict[int, float] = {}
    threads = torch.get_num_threads()
    while threads:
        tokens = decode(language_model, [language_model.tokenizer.eos_token_id], request, threads)
        stamps = [time.perf_counter() for _ in islice(tokens, 10)]
        seconds[threads] = median(later - earlier for earlier, later in pairwise(stamps))
        threads //= 2
    return min(seconds, key=seconds.__getitem__)


@contextmanager
def _quick_rows(step: torch.Tensor, threads: int | None) -> Iterator[None]:
    import torch

    if step.shape[1] > 1 or step.device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    # oneDNN repacks a bfloat16 weight at every call: for a single row the plain kernel is twice as quick.
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]
        torch.set_num_threads(before)


def _choose(logits: torch.Tensor, request: GenerationRequest, dice: torch.Generator | None) -> int:
    """Return the next token: the likeliest, or one drawn from the nucleus (Holtzman et al., 2020)."""
    import torch

    if request.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.float() / request.temperature, dim=-1)
    if request.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= request.top_p] = 0  # the likeliest always stays
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ranked)
    return int(torch.multinomial(probabilities, 1, generator=dice))
