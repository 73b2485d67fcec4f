"""Turn conversations into tokens through the model's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgeline.config.schema import Model
from forgeline.errors import ModelError, TuningError
from forgeline.lineage import file_digest, value_digest
from forgeline.records import Record

TEMPLATES = Path("configs/templates")
SHIPPED = TEMPLATES / "chatml.jinja"


def with_template(tokenizer: Any, model: Model, root: Path) -> Any:
    """Return a base model's tokenizer with the chat template that `train.model` names, or its own.

    Raises:
        ModelError: if there is neither, the file cannot be used, or no token ends a reply.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{model.source}: the tokenizer has no eos_token to end a reply: choose another base model.")
    if model.chat_template is not None:
        set_template(tokenizer, root / model.chat_template)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{model.source}: the tokenizer has no chat template; name one with train.model.chat_template={SHIPPED}."
        )
    return tokenizer


def set_template(tokenizer: Any, path: Path) -> None:
    """Give a tokenizer the chat template in a Jinja file.

    Raises:
        ModelError: if the file is missing, or a first conversation cannot be written with it.
    """
    from jinja2 import TemplateError

    if not path.is_file():
        raise ModelError(f"{path} does not exist: write that chat template, or name {SHIPPED}.")
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    try:
        encode_prompt(tokenizer, [{"role": "user", "content": "Hello"}])
    except TemplateError as error:
        raise ModelError(f"{path} is not a chat template that works: {error}.") from error


def templates_digest(root: Path) -> str:
    """Return the sha256 of the project's chat templates, which the configuration names by path alone."""
    return value_digest({path.name: file_digest(path) for path in (root / TEMPLATES).glob("*.jinja")})


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


def encode_text(tokenizer: Any, text: str, max_tokens: int | None = None) -> Example:
    """Return plain text, or its first tokens, as a completion of the token that begins or ends a text."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return Example([start], tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens])


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
