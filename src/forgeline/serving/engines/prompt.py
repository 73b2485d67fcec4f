"""A request's prompt in tokens: through the bundle's own approach, if it has one, and its chat template."""

from __future__ import annotations

from typing import Any, NamedTuple

from forgeline.models import encode_prompt
from forgeline.prompting import Messages, Prompter, Rewritten
from forgeline.serving.engines import GenerationRequest, RequestRefused


class Prompt(NamedTuple):
    """What a model reads, in tokens, and the facts in it that were looked up."""

    tokens: list[int]
    facts: tuple[str, ...]


def tokenised(tokenizer: Any, context: int, request: GenerationRequest, prompter: Prompter | None) -> Prompt:
    """Return a request's prompt in tokens; prompt and reply have `context` tokens in all.

    Raises:
        RequestRefused: if template or context length do not allow it.
    """
    from jinja2 import TemplateError

    try:
        prompt = encode(tokenizer, request.messages, prompter)
    except TemplateError as fault:
        raise RequestRefused(f"The model's chat template refuses these messages: {fault}.") from fault
    if len(prompt.tokens) + request.max_tokens > context:
        raise RequestRefused(
            f"The prompt has {len(prompt.tokens)} tokens and max_tokens is {request.max_tokens}, but the model holds "
            f"{context} in all: shorten the messages or ask for fewer tokens."
        )
    return prompt


def encode(tokenizer: Any, messages: Messages, prompter: Prompter | None) -> Prompt:
    """Return what a model reads for a caller's messages."""
    read = Rewritten(messages)
    if prompter is not None:
        read = prompter.rewrite(messages, lambda written: len(encode_prompt(tokenizer, written)))
    return Prompt(encode_prompt(tokenizer, read.messages), read.facts)
