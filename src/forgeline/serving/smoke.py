"""Ask a running server what a user would ask, with the official client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from forgeline.config.schema.serve.access import Tls
from forgeline.errors import ServingError
from forgeline.serving.client import client

if TYPE_CHECKING:
    from openai import OpenAI


class SmokeReport(BaseModel):
    """The greedy replies to the prompts, and what they cost."""

    model_config = ConfigDict(frozen=True)
    replies: list[str]
    prompt_tokens: int
    completion_tokens: int


def smoke(
    url: str,
    model: str,
    prompts: Sequence[list[dict[str, str]]],
    max_tokens: int,
    expected: Sequence[str] | None = None,
    key: str = "none",
    tls: Tls | None = None,
) -> SmokeReport:
    """Check that a server lists its model, answers each prompt, and streams the very same answer.

    With `expected`, such as a parity report's replies, the running engine must say them word by word. Each prompt has a
    seed, so that an engine whose replies depend on who else is there answers it alone. `key` is an
    API key, `tls` the server's own settings.

    Raises:
        ServingError: saying which of it failed.
    """
    from openai import OpenAIError

    asking = client(url, key, tls)
    try:
        listed = [entry.id for entry in asking.models.list()]
        if model not in listed:
            raise ServingError(f"{url} serves {', '.join(listed)}, not {model}.")
        answers = [_ask(asking, model, prompt, max_tokens) for prompt in prompts]
    except OpenAIError as fault:
        raise ServingError(f"The smoke test of {url} failed: {fault}") from fault
    replies = [reply for reply, _ in answers]
    for number, (reply, wanted) in enumerate(zip(replies, expected or replies, strict=True), start=1):
        if reply != wanted:
            raise ServingError(
                f"{url} is not the model that was checked: to smoke prompt {number} it says {reply!r}, "
                f"the bundle says {wanted!r}."
            )
    return SmokeReport(
        replies=replies,
        prompt_tokens=sum(usage.prompt_tokens for _, usage in answers),
        completion_tokens=sum(usage.completion_tokens for _, usage in answers),
    )


def _ask(client: OpenAI, model: str, prompt: list[dict[str, str]], max_tokens: int) -> tuple[str, Any]:
    question: dict[str, Any] = {"model": model, "messages": prompt, "max_tokens": max_tokens, "temperature": 0}
    question["seed"] = 0
    question["extra_headers"] = {"cache-control": "no-store"}  # the engine is asked each time
    whole = client.chat.completions.create(**question)
    usage = whole.usage
    if usage is None or not (usage.prompt_tokens and usage.completion_tokens):
        raise ServingError(f"{client.base_url} does not count tokens: its usage is {usage}.")
    reply = whole.choices[0].message.content
    chunks = client.chat.completions.create(**question, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    if streamed != reply:
        raise ServingError(f"{client.base_url} streams {streamed!r} but answers {reply!r} to the same question.")
    return reply, usage
