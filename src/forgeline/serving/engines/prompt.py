"""A request's prompt in tokens: through the bundle's own approach, if it has one, and its chat template."""

from __future__ import annotations

from typing import Any

from forgeline.models import encode_prompt
from forgeline.prompting import Messages, Prompter
from forgeline.serving.engines import GenerationRequest, RequestRefused


def tokenised(tokenizer: Any, context: int, request: GenerationRequest, prompter: Prompter | None) -> list[int]:
    """Return a request's prompt in tokens; prompt and reply have `context` tokens in all.

    Raises:
        RequestRefused: if template or context length do not allow it.
    """
    from jinja2 import TemplateError

    try:
        prompt = encode(tokenizer, request.messages, prompter)
    except TemplateError as fault:
        raise RequestRefused(f"The model's chat template refuses these messages: {fault}.") from fault
    if len(prompt) + request.max_tokens > context:
        raise RequestRefused(
            f"The prompt has {len(prompt)} tokens and max_tokens is {request.max_tokens}, but the model holds "
            f"{context} in all: shorten the messages or ask for fewer tokens."
        )
    return prompt


def encode(tokenizer: Any, messages: Messages, prompter: Prompter | None) -> list[int]:
    """Return the tokens that a model reads for a caller's messages."""
    if prompter is not None:
        messages = prompter.rewrite(messages, lambda written: len(encode_prompt(tokenizer, written)))
    return encode_prompt(tokenizer, messages)
