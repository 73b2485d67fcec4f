"""Turn conversations into tokens through the model's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forgeline.errors import TuningError
from forgeline.records import Record


@dataclass(frozen=True)
class Example:
    """A tokenised record: the prompt's ids and the completion's, which end with a stop token, and its weight."""

    prompt: list[int]
    completion: list[int]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def encode_prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Return the ids of chat messages up to where the assistant begins to speak."""
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return ids


def encode_example(tokenizer: Any, record: Record) -> Example:
    """Return a record's prompt and completion ids; the completion is what the loss is taken on.

    Raises:
        TuningError: if the template renders a conversation so that it does not begin with its prompt.
    """
    prompt = tokenizer.apply_chat_template(record.prompt, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([m.model_dump() for m in record.messages], tokenize=False)
    if not whole.startswith(prompt):
        raise TuningError(
            f"Record {record.id}: the chat template writes the prompt differently once it is answered, so the "
            "completion cannot be told apart. Choose a base model with a plain chat template."
        )
    completion = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id in completion:  # templates may add a newline after it
        completion = completion[: completion.index(tokenizer.eos_token_id)]
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return Example(ids, [*completion, tokenizer.eos_token_id], record.weight)
