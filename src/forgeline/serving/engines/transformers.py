"""The embedded engine: a bundle's transformers model in this process, many requests at once."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from forgeline.models import LanguageModel, encode_prompt
from forgeline.prompting import Messages, Prompter
from forgeline.serving.bundle import Manifest, load, prompter
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused, Usage
from forgeline.serving.engines.decode import decode, fastest_threads
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.text import TextStream

ROWS = 8


class Rows:
    """A bundle's model; `root` is where a base model with a relative path is found, `verified` its manifest.

    Requests take turns, a token each.
    """

    models: tuple[str, ...] = ()
    gives_logprobs = False
    _model: LanguageModel
    _prompter: Prompter | None

    def __init__(self, bundle: Path, root: Path, verified: Manifest | None = None) -> None:
        self._bundle = bundle
        self._root = root
        self._verified = verified
        self._threads: int | None = None
        self._replies: dict[Job, Generator[Piece]] = {}

    def load(self) -> None:
        """Verify the bundle unless it just was, load its model and find out how many threads decode fastest."""
        self._model = load(self._bundle, self._root, self._verified)
        self._prompter = prompter(self._bundle)
        encode(self._model, [{"role": "user", "content": "Hello"}], self._prompter)  # loads what looking up needs
        self._threads = fastest_threads(self._model)

    def room(self) -> bool:
        """Whether another request can be added now."""
        return len(self._replies) < ROWS

    def add(self, job: Job) -> None:
        """Take a request on."""
        self._replies[job] = answer(self._model, job.request, self._threads, self._prompter)

    def drop(self, job: Job) -> None:
        """Forget a request."""
        self._replies.pop(job, None)

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._replies)

    def step(self) -> Iterator[tuple[Job, Piece | Exception]]:
        """Give every request its next token."""
        for job, pieces in list(self._replies.items()):
            try:
                piece: Piece | Exception = next(pieces)
            except Exception as fault:
                piece = fault
            if isinstance(piece, Exception) or piece.finish_reason:
                del self._replies[job]
            yield job, piece


def answer(
    language_model: LanguageModel,
    request: GenerationRequest,
    threads: int | None = None,
    prompter: Prompter | None = None,
) -> Generator[Piece]:
    """Yield the reply to a request, which an approach rewrites if there is one; a piece for each token.

    Raises:
        RequestRefused: before the first piece, if template or context length do not allow the request.
    """
    prompt = _encode(language_model, request, prompter)
    text = TextStream(language_model.tokenizer, request.stop)
    stop_ids = set(language_model.stop_ids)
    for count, token in enumerate(decode(language_model, prompt, request, threads), start=1):
        usage = Usage(len(prompt), count)
        if token in stop_ids:
            yield Piece(text.finish(), usage, "stop")
            return
        new = text.push(token)
        if not text.stopped and count == request.max_tokens:
            new += text.finish()
            yield Piece(new, usage, "stop" if text.stopped else "length")
            return
        yield Piece(new, usage, "stop" if text.stopped else None)
        if text.stopped:
            return


def _encode(language_model: LanguageModel, request: GenerationRequest, prompter: Prompter | None) -> list[int]:
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
