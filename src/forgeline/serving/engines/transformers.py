"""The embedded engine: a bundle's transformers model in this process, many requests at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.config.schema.serve import Signing
from forgeline.models import LanguageModel
from forgeline.prompting import Prompter
from forgeline.serving.bundle import NOBODY, Manifest, load, prompter, verify
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused
from forgeline.serving.engines.choose import Chooser
from forgeline.serving.engines.decode import Decoder, Row, Together, decoder
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.prompt import Prompt, encode, tokenised
from forgeline.serving.engines.text import Spoken

if TYPE_CHECKING:
    import torch

    from forgeline.serving.engines.decode import Switch

ROWS = 8


class Reply:
    """One request on its way: its row in the batch, and what has been said so far."""

    def __init__(self, language_model: LanguageModel, request: GenerationRequest, row: Row, prompt: Prompt) -> None:
        self.row = row
        self._tokenizer = language_model.tokenizer
        self._chooser = Chooser(request, language_model.device)
        self._spoken = Spoken(language_model.tokenizer, language_model.stop_ids, request, prompt)

    def say(self, scores: torch.Tensor) -> Piece:
        """Choose the next token by its scores, and return what it brings."""
        token = self._chooser.choose(scores)
        self.row.tokens.append(token)
        return self._spoken.add(token, self._chooser.logprobs(scores, token, self._tokenizer))


@dataclass(frozen=True)
class Served:
    """What answers to one name: a model with the tokenizer of its adapter, and the batch that it is decoded in."""

    model: LanguageModel
    prompter: Prompter | None
    decoder: Decoder
    adapter: int = 0


class Rows:
    """A bundle's model, and more adapters on its base by their names.

    `root` is where a base model with a relative path is found, `verified` the bundle's manifest. The bundle's own
    adapter is merged; the others share a batch beside it.
    """

    gives_logprobs = True

    def __init__(
        self,
        bundle: Path,
        root: Path,
        verified: Manifest | None = None,
        adapters: Mapping[str, str] | None = None,
        signing: Signing = NOBODY,
    ) -> None:
        self._bundle = bundle
        self._root = root
        self._verified = verified
        self._adapters = adapters or {}
        self._signing = signing
        self._served: dict[str | None, Served] = {}
        self._replies: dict[Job, tuple[Decoder, Reply]] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the adapters."""
        return tuple(self._adapters)

    def load(self) -> None:
        """Verify the bundle unless it just was, load its model and find out how many threads decode fastest."""
        manifest = self._verified or verify(self._bundle, self._signing)
        model = load(self._bundle, self._root, manifest)
        self._served[None] = Served(model, prompter(self._bundle), _decoder(model))
        if self._adapters:
            from forgeline.serving.engines import adapters

            base, found, switch = adapters.load(self._adapters, self._bundle, manifest, self._root, self._signing)
            shared = _decoder(base, switch.set)
            for name, adapter in found.items():
                own = replace(base, tokenizer=adapter.tokenizer)
                self._served[name] = Served(own, adapter.prompter, shared, adapter.number)
        for served in self._served.values():  # loads what looking up needs
            encode(served.model.tokenizer, [{"role": "user", "content": "Hello"}], served.prompter)

    def room(self) -> bool:
        """Whether another request can be added now."""
        return len(self._replies) < ROWS

    def add(self, job: Job) -> None:
        """Take a request on."""
        served = self._served.get(job.request.model)
        if served is None:
            raise RequestRefused(f"There is no model {job.request.model} here.")
        prompt = _tokenised(served.model, job.request, served.prompter)
        # Who gives a seed wants the same reply again, as the check of a deployment does.
        row = served.decoder.join(prompt.tokens, served.adapter, apart=job.request.seed is not None)
        self._replies[job] = served.decoder, Reply(served.model, job.request, row, prompt)

    def drop(self, job: Job) -> None:
        """Forget a request."""
        batch, reply = self._replies.pop(job, (None, None))
        if batch and reply:
            batch.leave(reply.row)

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._replies)

    def step(self) -> Iterator[tuple[Job, Piece | Exception]]:
        """Move every request on: by a token, or by a part of its prompt."""
        jobs = {reply.row: job for job, (_, reply) in self._replies.items()}
        for batch in {batch for batch, _ in self._replies.values()}:
            for row, scores in batch.step():
                job = jobs[row]
                try:
                    piece: Piece | Exception = self._replies[job][1].say(scores)
                except Exception as fault:
                    piece = fault
                if isinstance(piece, Exception) or piece.finish_reason:
                    self.drop(job)
                yield job, piece


def _decoder(language_model: LanguageModel, switch: Switch | None = None) -> Decoder:
    found, _ = decoder(language_model, ROWS, switch)
    if isinstance(found, Together):
        found.tune()
    return found


def answer(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None = None) -> list[Piece]:
    """Return the reply to one request, which an approach rewrites if there is one; a piece for each token.

    It is what the engine says, whoever else it talks to, but for rounding.

    Raises:
        RequestRefused: if template or context length do not allow the request.
    """
    prompt = _tokenised(language_model, request, prompter)
    alone, end = decoder(language_model, rows=1)
    reply = Reply(language_model, request, alone.join(prompt.tokens), prompt)
    pieces: list[Piece] = []
    while not (pieces and pieces[-1].finish_reason):
        pieces += [reply.say(scores) for _, scores in alone.step()]
    end()
    return pieces


def _tokenised(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None) -> Prompt:
    context = language_model.model.config.max_position_embeddings
    return tokenised(language_model.tokenizer, context, request, prompter)
