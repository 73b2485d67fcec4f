"""The embedded engine: a bundle's transformers model in this process, many requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forgeline.models import LanguageModel, encode_prompt
from forgeline.prompting import Messages, Prompter, Rewritten
from forgeline.serving.bundle import Manifest, load, prompter, verify
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused, Usage
from forgeline.serving.engines.choose import Chooser
from forgeline.serving.engines.decode import Decoder, Row, Together, decoder
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.text import TextStream

if TYPE_CHECKING:
    import torch

ROWS = 8


class Prompt(NamedTuple):
    """What a model reads, in tokens, and the facts in it that were looked up."""

    tokens: list[int]
    facts: tuple[str, ...]


class Reply:
    """One request on its way: its row in the batch, and what has been said so far."""

    def __init__(
        self, language_model: LanguageModel, request: GenerationRequest, row: Row, facts: tuple[str, ...]
    ) -> None:
        self.row = row
        self._facts = facts
        self._request = request
        self._tokenizer = language_model.tokenizer
        self._stop_ids = set(language_model.stop_ids)
        self._chooser = Chooser(request, language_model.device)
        self._text = TextStream(language_model.tokenizer, request.stop)
        self._prompt = len(row.tokens)

    def say(self, scores: torch.Tensor) -> Piece:
        """Choose the next token by its scores, and return what it brings."""
        facts, self._facts = self._facts, ()
        return replace(self._said(scores), facts=facts)

    def _said(self, scores: torch.Tensor) -> Piece:
        token = self._chooser.choose(scores)
        self.row.tokens.append(token)
        count = len(self.row.tokens) - self._prompt
        usage = Usage(self._prompt, count)
        if token in self._stop_ids:
            return Piece(self._text.finish(), usage, "stop")
        text, logprobs = self._text.push(token), self._chooser.logprobs(scores, token, self._tokenizer)
        if self._text.stopped:
            return Piece(text, usage, "stop", logprobs)
        if count < self._request.max_tokens:
            return Piece(text, usage, None, logprobs)
        text += self._text.finish()
        return Piece(text, usage, "stop" if self._text.stopped else "length", logprobs)


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
        self, bundle: Path, root: Path, verified: Manifest | None = None, adapters: Mapping[str, str] | None = None
    ) -> None:
        self._bundle = bundle
        self._root = root
        self._verified = verified
        self._adapters = adapters or {}
        self._served: dict[str | None, Served] = {}
        self._replies: dict[Job, tuple[Decoder, Reply]] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the adapters."""
        return tuple(self._adapters)

    def load(self) -> None:
        """Verify the bundle unless it just was, load its model and find out how many threads decode fastest."""
        model = load(self._bundle, self._root, self._verified)
        self._served[None] = Served(model, prompter(self._bundle), _decoder(model))
        if self._adapters:
            from forgeline.serving.engines import adapters

            manifest = self._verified or verify(self._bundle)
            base, found, switch = adapters.load(self._adapters, self._bundle, manifest, self._root)
            shared = _decoder(base, switch.set)
            for name, adapter in found.items():
                own = replace(base, tokenizer=adapter.tokenizer)
                self._served[name] = Served(own, adapter.prompter, shared, adapter.number)
        for served in self._served.values():  # loads what looking up needs
            encode(served.model, [{"role": "user", "content": "Hello"}], served.prompter)

    def room(self) -> bool:
        """Whether another request can be added now."""
        return len(self._replies) < ROWS

    def add(self, job: Job) -> None:
        """Take a request on."""
        served = self._served.get(job.request.model)
        if served is None:
            raise RequestRefused(f"There is no model {job.request.model} here.")
        prompt = tokenised(served.model, job.request, served.prompter)
        row = served.decoder.join(prompt.tokens, served.adapter)
        self._replies[job] = served.decoder, Reply(served.model, job.request, row, prompt.facts)

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


def _decoder(language_model: LanguageModel, switch: Callable[[torch.Tensor], None] = lambda adapters: None) -> Decoder:
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
    prompt = tokenised(language_model, request, prompter)
    alone, end = decoder(language_model, rows=1)
    reply = Reply(language_model, request, alone.join(prompt.tokens), prompt.facts)
    pieces: list[Piece] = []
    while not (pieces and pieces[-1].finish_reason):
        pieces += [reply.say(scores) for _, scores in alone.step()]
    end()
    return pieces


def tokenised(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None) -> Prompt:
    """Return a request's prompt in tokens.

    Raises:
        RequestRefused: if template or context length do not allow it.
    """
    from jinja2 import TemplateError

    try:
        prompt = encode(language_model, request.messages, prompter)
    except TemplateError as fault:
        raise RequestRefused(f"The model's chat template refuses these messages: {fault}.") from fault
    context = language_model.model.config.max_position_embeddings
    if len(prompt.tokens) + request.max_tokens > context:
        raise RequestRefused(
            f"The prompt has {len(prompt.tokens)} tokens and max_tokens is {request.max_tokens}, but the model holds "
            f"{context} in all: shorten the messages or ask for fewer tokens."
        )
    return prompt


def encode(language_model: LanguageModel, messages: Messages, prompter: Prompter | None) -> Prompt:
    """Return what a model reads for a caller's messages."""
    tokenizer = language_model.tokenizer
    read = Rewritten(messages)
    if prompter is not None:
        read = prompter.rewrite(messages, lambda written: len(encode_prompt(tokenizer, written)))
    return Prompt(encode_prompt(tokenizer, read.messages), read.facts)
