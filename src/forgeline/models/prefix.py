"""The prefix that a batch's prompts share (system turn, instruction), read once instead of once a row.

Exact for models whose only memory of earlier tokens is their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

# Below this many tokens a second forward pass costs more than the shared prefix saves.
WORTH_SHARING = 8


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Return how many leading tokens all prompts share, short of any prompt's last; 0 if not worth a pass."""
    if len(prompts) == 1:
        return 0
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return shared if shared >= WORTH_SHARING else 0


def read_prefix(model: Any, prefix: list[int], rows: int) -> Any:
    """Return the cache of a prefix for a batch of rows; the gradient flows through its keys and values."""
    import torch
    from transformers import DynamicCache

    device = next(model.parameters()).device
    cache = DynamicCache(config=model.config.get_text_config())
    ids, nowhere = torch.tensor([prefix], device=device), torch.empty(0, dtype=torch.long, device=device)
    # Only keys and values are wanted: no position gets logits.
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=nowhere)
    cache.batch_repeat_interleave(rows)
    return cache
