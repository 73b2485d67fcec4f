"""Whether a reply means what people wrote, by the angle between sentence embeddings."""

from __future__ import annotations

from itertools import chain

from pydantic import validate_call

from forgeline.evaluation.metrics.corpus import REPLIES, Mean, Table, with_ones
from forgeline.models.embed import MINILM, embed


class Similarity(Mean):
    """The mean cosine of a reply's embedding and its closest reference's, -1 to 1; an empty reply has 0.

    `model` is where a sentence encoder lies whose embedding is the mean of its last states: one folder or
    repository, or its files. Near 1 is not the same as right: a negation hardly moves an embedding.
    Statistics: cosine, 1.
    """

    columns = tuple(REPLIES)
    source = "Reimers and Gurevych, Sentence-BERT, 2019 (sentence-transformers)"

    @validate_call
    def __init__(self, model: tuple[str, ...] | str = MINILM) -> None:
        super().__init__()
        self.model = (model,) if isinstance(model, str) else model

    def statistics(self, predictions: list[str], references: list[list[str]]) -> Table:
        """Return (cosine with the closest reference, 1) for each example."""
        texts = list({*predictions, *chain.from_iterable(references)})
        of = dict(zip(texts, embed(texts, self.model), strict=True))
        cosines = [
            max(float(of[reply] @ of[text]) for text in accepted) if reply.strip() else 0.0
            for reply, accepted in zip(predictions, references, strict=True)
        ]
        return with_ones(cosines)
