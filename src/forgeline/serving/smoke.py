"""Ask a running server what a user would ask, with the official client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from forgeline.errors import ServingError

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
) -> SmokeReport:
    """Check that a server lists its model, answers each prompt, and streams the very same answer.

    With `expected`, such as a parity report's replies, the running engine must say them word by word.

    Raises:
        ServingError: saying which of it failed.
    """
    from openai import OpenAI, OpenAIError

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    try:
        listed = [entry.id for entry in client.models.list()]
        if model not in listed:
            raise ServingError(f"{url} serves {', '.join(listed)}, not {model}.")
        answers = [_ask(client, model, prompt, max_tokens) for prompt in prompts]
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
