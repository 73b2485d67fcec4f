"""What turns messages into tokens. Every engine keeps this one promise to the gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forgeline.errors import ForgelineError, ServingError


class RequestRefused(ServingError):
    """The engine is well, but this request cannot be answered as it was put."""


class EngineUnavailable(ServingError):
    """The engine cannot answer now: it loads, is overrun, or cannot be reached. Another try may succeed.

    `retry_after` is how many seconds it asks to be left alone, if it says so.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailed(ServingError):
    """The engine broke on this request; its log says why."""


@dataclass(frozen=True)
class GenerationRequest:
    """Chat messages and how to continue them.

    Temperature 0 is greedy, no seed is a fresh one; no model is the engine's own, else one of its `models`;
    `logprobs` asks for each token's log-probability, and for those of so many of the likeliest beside it.
    """

    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    model: str | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, the one that ended the reply among them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the reply, how likely it was in nats, and the likeliest in its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some text of the reply as it comes; the last piece says why it is the last.

    `facts` are what the engine looked up and told the model beside the messages; the first piece has them.
    """

    text: str
    usage: Usage
    finish_reason: Literal["stop", "length", "content_filter"] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many bytes its texts have."""
        return sum(len(text.encode()) for text in (self.text, *self.facts))

    @classmethod
    def joined(cls, pieces: Sequence[Piece]) -> Piece:
        """Return the one piece that some in a row amount to."""
        text = "".join(piece.text for piece in pieces)
        logprobs = tuple(logprob for piece in pieces for logprob in piece.logprobs)
        facts = tuple(fact for piece in pieces for fact in piece.facts)
        return cls(text, pieces[-1].usage, pieces[-1].finish_reason, logprobs, facts)


class Engine(Protocol):
    """A text generator that answers many requests at once; belongs to one event loop."""

    name: str
    failure: ForgelineError | None  # why it can never answer, once that is known

    @property
    def last_piece(self) -> float:
        """When it last gave one, in monotonic seconds."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        ...

    @property
    def depth(self) -> int:
        """How many requests wait in it for their first token."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """The names beside its own that a request may ask for, such as adapters; known once it is ready."""
        ...

    @property
    def gives_logprobs(self) -> bool:
        """Whether a request may ask for them."""
        ...

    async def start(self) -> None:
        """Begin to make ready; returns at once."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the reply as it comes; closing the generator cancels it.

        Raises:
            RequestRefused: before the first piece, if the request does not fit the model.
            EngineUnavailable: before the first piece, if another try may succeed.
            EngineFailed: at any piece.
        """
        ...

    async def close(self) -> None:
        """Put down what it was doing, and free what it holds."""
