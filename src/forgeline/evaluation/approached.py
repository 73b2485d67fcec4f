"""A model that is asked by an approach: scored like any other subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from forgeline.evaluation.subjects import Local, Messages
from forgeline.models import Reply, encode_prompt
from forgeline.prompting import Prompter
from forgeline.records import Message, Record


@dataclass(frozen=True)
class Approached:
    """A model in this process behind an approach, which rewrites every prompt before the chat template."""

    subject: Local
    prompter: Prompter

    @property
    def name(self) -> str:
        """The model's, where it is called anything but its approach."""
        return self.subject.name

    @property
    def vocabulary(self) -> str:
        """The digest of the model's tokens."""
        return self.subject.vocabulary

    def replies(
        self, prompts: Sequence[Messages], max_new_tokens: int, advance: Callable[[int], None] = lambda replies: None
    ) -> list[Reply]:
        """Return the greedy reply to each prompt, in order."""
        return self.subject.replies([self.rewritten(prompt) for prompt in prompts], max_new_tokens, advance)

    def losses(self, records: Sequence[Record]) -> list[tuple[float, int]]:
        """Return (summed loss in nats, tokens) of each record's completion after the rewritten prompt."""
        return self.subject.losses([self._asked(record) for record in records])

    def text_losses(self, texts: Sequence[str], max_tokens: int | None = None) -> list[tuple[float, int]]:
        """Return (summed loss in nats, tokens) of each plain text, which no approach touches."""
        return self.subject.text_losses(texts, max_tokens)

    def rewritten(self, prompt: Messages) -> Messages:
        """Return what the model reads."""
        return self.prompter.rewrite(prompt, self._tokens).messages

    def prompt_tokens(self, prompts: Sequence[Messages]) -> list[int]:
        """Return how many tokens the model reads for each prompt."""
        return [self._tokens(self.rewritten(prompt)) for prompt in prompts]

    def alone(self) -> Approached:
        """Return the same, asked one prompt at a time."""
        return replace(self, subject=replace(self.subject, batch_size=1))

    def _asked(self, record: Record) -> Record:
        turns = [Message.model_validate(turn) for turn in self.rewritten(record.prompt)]
        return record.model_copy(update={"messages": [*turns, record.messages[-1]]})

    def _tokens(self, messages: Messages) -> int:
        return len(encode_prompt(self.subject.language_model.tokenizer, messages))
