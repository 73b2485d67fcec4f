"""What turns messages into tokens. Every engine keeps this one promise to the gateway."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

from forgeline.errors import ServingError


class RequestRefused(ServingError):
    """The engine is well, but this request cannot be answered as it was put."""


@dataclass(frozen=True)
class GenerationRequest:
    """Chat messages and how to continue them; temperature 0 is greedy, no seed is a fresh one."""

    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens read and written, the one that ended the reply among them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Piece:
    """Some text of the reply as it comes; the last piece says why it is the last."""

    text: str
    usage: Usage
    finish_reason: Literal["stop", "length"] | None = None


class Engine(Protocol):
    """A text generator. One thread calls it, one request at a time."""

    name: str

    def load(self) -> None:
        """Make ready to generate; may take long, raises ForgelineError."""

    def generate(self, request: GenerationRequest) -> Generator[Piece]:
        """Yield the reply, a piece for each token; closing the generator cancels it.

        Raises:
            RequestRefused: before the first piece, if the request does not fit the model.
        """
        ...
