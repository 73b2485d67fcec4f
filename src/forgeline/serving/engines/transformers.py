"""The embedded engine: a bundle's transformers model in this process, many requests at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from forgeline.models import LanguageModel, encode_prompt
from forgeline.prompting import Messages, Prompter
from forgeline.serving.bundle import Manifest, load, prompter
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused, Usage
from forgeline.serving.engines.choose import Chooser
from forgeline.serving.engines.decode import Decoder, Row, Together, decoder
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.text import TextStream

if TYPE_CHECKING:
    import torch

ROWS = 8


class Reply:
    """One request on its way: its row in the batch, and what has been said so far."""

    def __init__(self, language_model: LanguageModel, request: GenerationRequest, row: Row) -> None:
        self.row = row
        self._request = request
        self._tokenizer = language_model.tokenizer
        self._stop_ids = set(language_model.stop_ids)
        self._chooser = Chooser(request, language_model.device)
        self._text = TextStream(language_model.tokenizer, request.stop)
        self._prompt = len(row.tokens)

    def say(self, scores: torch.Tensor) -> Piece:
        """Choose the next token by its scores, and return what it brings."""
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


class Rows:
    """A bundle's model; `root` is where a base model with a relative path is found, `verified` its manifest."""

    models: tuple[str, ...] = ()
    gives_logprobs = True
    _model: LanguageModel
    _prompter: Prompter | None
    _decoder: Decoder

    def __init__(self, bundle: Path, root: Path, verified: Manifest | None = None) -> None:
        self._bundle = bundle
        self._root = root
        self._verified = verified
        self._replies: dict[Job, Reply] = {}

    def load(self) -> None:
        """Verify the bundle unless it just was, load its model and find out how many threads decode fastest."""
        self._model = load(self._bundle, self._root, self._verified)
        self._prompter = prompter(self._bundle)
        encode(self._model, [{"role": "user", "content": "Hello"}], self._prompter)  # loads what looking up needs
        self._decoder = decoder(self._model, ROWS)
        if isinstance(self._decoder, Together):
            self._decoder.tune()

    def room(self) -> bool:
        """Whether another request can be added now."""
        return self._decoder.room()

    def add(self, job: Job) -> None:
        """Take a request on."""
        prompt = tokenised(self._model, job.request, self._prompter)
        self._replies[job] = Reply(self._model, job.request, self._decoder.join(prompt))

    def drop(self, job: Job) -> None:
        """Forget a request."""
        if reply := self._replies.pop(job, None):
            self._decoder.leave(reply.row)

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._replies)

    def step(self) -> Iterator[tuple[Job, Piece | Exception]]:
        """Move every request on: by a token, or by a part of its prompt."""
        jobs = {reply.row: job for job, reply in self._replies.items()}
        for row, scores in self._decoder.step():
            job = jobs[row]
            try:
                piece: Piece | Exception = self._replies[job].say(scores)
            except Exception as fault:
                piece = fault
            if isinstance(piece, Exception) or piece.finish_reason:
                self.drop(job)
            yield job, piece


def answer(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None = None) -> list[Piece]:
    """Return the reply to one request, which an approach rewrites if there is one; a piece for each token.

    It is what the engine says, whoever else it talks to. The model's weights serve nothing but decoding afterwards.

    Raises:
        RequestRefused: if template or context length do not allow the request.
    """
    prompt = tokenised(language_model, request, prompter)
    alone = decoder(language_model, rows=1)
    reply = Reply(language_model, request, alone.join(prompt))
    pieces: list[Piece] = []
    while not (pieces and pieces[-1].finish_reason):
        pieces += [reply.say(scores) for _, scores in alone.step()]
    return pieces


def tokenised(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None) -> list[int]:
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
    if len(prompt) + request.max_tokens > context:
        raise RequestRefused(
            f"The prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}, but the model holds "
            f"{context} in all: shorten the messages or ask for fewer tokens."
        )
    return prompt


def encode(language_model: LanguageModel, messages: Messages, prompter: Prompter | None) -> list[int]:
    """Return the tokens that a model reads for a caller's messages."""
    tokenizer = language_model.tokenizer
    if prompter is not None:
        messages = prompter.rewrite(messages, lambda written: len(encode_prompt(tokenizer, written)))
    return encode_prompt(tokenizer, messages)
