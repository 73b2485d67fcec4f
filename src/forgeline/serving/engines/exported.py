"""What batchers of a variant share: the bundle's own tokenizer and template, so that all read the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from forgeline.serving.bundle import TUNED, prompter
from forgeline.serving.engines import GenerationRequest, RequestRefused
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.prompt import encode, tokenised
from forgeline.serving.engines.text import Spoken
from forgeline.serving.variant import Variant

ROWS = 32
ReplyT = TypeVar("ReplyT")


class Exported(Generic[ReplyT]):
    """A verified variant of a bundle, and the requests that it answers with what another runtime keeps of each."""

    models: tuple[str, ...] = ()
    gives_logprobs = False

    def __init__(self, folder: Path, variant: Variant, bundle: Path) -> None:
        self._folder = folder
        self._variant = variant
        self._bundle = bundle
        self._replies: dict[Job, ReplyT] = {}

    def load(self) -> None:
        """Read what prompts become tokens by."""
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self._bundle / TUNED)
        self._prompter = prompter(self._bundle)
        encode(self._tokenizer, [{"role": "user", "content": "Hello"}], self._prompter)  # loads what looking up needs

    def room(self) -> bool:
        """Whether another request can be added now."""
        return len(self._replies) < ROWS

    def drop(self, job: Job) -> None:
        """Forget a request."""
        self._replies.pop(job, None)

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._replies)

    def read(self, request: GenerationRequest) -> tuple[list[int], Spoken]:
        """Return a request's prompt in tokens, and what will have been said to it.

        Raises:
            RequestRefused: if it does not fit the model, or asks for another.
        """
        if request.model is not None:
            raise RequestRefused(f"There is no model {request.model} here.")
        prompt = tokenised(self._tokenizer, self._variant.context, request, self._prompter)
        return prompt.tokens, Spoken(self._tokenizer, self._variant.stop_ids, request, prompt)
