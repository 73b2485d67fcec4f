"""The OpenAI chat API as its client sees it: what is asked, and the events that answer.

Source: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import orjson

from forgeline.serving.engines import EngineFailed, GenerationRequest, Piece, TokenLogprob, Usage

LONGEST_EVENT = 1_000_000  # bytes; a server that never ends a line must not fill the memory


def body(request: GenerationRequest, model: str) -> bytes:
    """Return the JSON body that asks a server for a stream with its usage."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": request.messages,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.stop:
        asked["stop"] = request.stop
    if request.seed is not None:
        asked["seed"] = request.seed
    if request.logprobs is not None:
        asked |= {"logprobs": True, "top_logprobs": request.logprobs}
    return orjson.dumps(asked)


def told(answer: bytes) -> str:
    """Return what a server says in the body of an error, in OpenAI's shape or FastAPI's, cut to 500 characters."""
    try:
        said = orjson.loads(answer)
    except ValueError:
        said = answer.decode(errors="replace")
    while isinstance(said, dict):
        said = next((said[key] for key in ("error", "message", "detail") if key in said), str(said))
    return str(said).strip()[:500]


class Reply:
    """The events of one reply, turned into pieces as their bytes come.

    `usage` is the server's own where it gives one. Where it gives none, and until it does, the prompt has 0 tokens
    and each piece counts as one: a lower bound, for a server may send several tokens in an event. What a Forgeline
    server looked up comes in its field `forgeline`; other servers say nothing of it.
    """

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""
        self._usage: Usage | None = None
        self._count = 0
        self._last: Piece | None = None
        self._facts: tuple[str, ...] = ()  # that no piece has brought yet

    def read(self, data: bytes) -> list[Piece]:
        """Return the pieces that some bytes complete; none at all are the end of the connection.

        Raises:
            EngineFailed: if the server tells of an error, breaks off, or says what the API does not know.
        """
        if not data:
            return [self._end()]
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_EVENT:
            raise EngineFailed(f"The engine sent an event of more than {LONGEST_EVENT} bytes.")
        events = (line[5:].strip() for line in lines if line.startswith(b"data:"))
        try:
            return [piece for event in events if not self.ended and (piece := self._piece(event))]
        except (ValueError, LookupError, TypeError, AttributeError) as fault:
            raise EngineFailed(f"The engine sent an event that is not of the chat API ({fault!r}).") from fault

    def _piece(self, event: bytes) -> Piece | None:
        if event == b"[DONE]":
            return self._end()
        chunk = orjson.loads(event)
        if "error" in chunk:
            raise EngineFailed(f"The engine failed on this request: {told(event)}")
        if usage := chunk.get("usage"):
            self._usage = Usage(usage["prompt_tokens"], usage["completion_tokens"])
        if ours := chunk.get("forgeline"):
            self._facts = tuple(map(str, ours.get("facts") or ()))
        if not chunk["choices"]:
            return None
        choice = chunk["choices"][0]
        text, logprobs = choice["delta"].get("content") or "", _logprobs(choice)
        if text or logprobs:
            self._count += 1
        piece = Piece(text, self._usage or Usage(0, self._count), _reason(choice), logprobs, self._facts)
        if piece.finish_reason:
            self._last = piece  # the usage comes after it
            return None
        if not (text or logprobs):
            return None
        self._facts = ()
        return piece

    def _end(self) -> Piece:
        self.ended = True
        if self._last is None:
            raise EngineFailed("The engine broke off in the middle of the reply.")
        return replace(self._last, usage=self._usage or Usage(0, self._count))


def _reason(choice: dict[str, Any]) -> Literal["stop", "length"] | None:
    reason = choice.get("finish_reason")
    if reason in {"abort", "error"}:  # vLLM's, when it shuts down or breaks
        raise EngineFailed(f"The engine ended the reply with {reason}.")
    if reason is None or reason == "length":
        return reason
    return "stop"


def _logprobs(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    content = (choice.get("logprobs") or {}).get("content") or ()
    return tuple(
        TokenLogprob(
            token["token"],
            token["logprob"],
            tuple((top["token"], top["logprob"]) for top in token.get("top_logprobs") or ()),
        )
        for token in content
    )
