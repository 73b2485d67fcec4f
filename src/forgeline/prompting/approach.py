"""From a caller's chat messages to those that the model reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from forgeline.config.schema import Prompt, Retriever
from forgeline.config.schema.approaches import PLACEHOLDER
from forgeline.lineage import file_digest, value_digest
from forgeline.prompting.store import Example, Store
from forgeline.records import write_json

Messages = list[dict[str, str]]
APPROACH, STORE = "approach.json", "store.db"


class Approach(BaseModel):
    """A way to use a model, with its prompt spelled out; beside its store, all that is needed to follow it.

    `prompt_version` is the prompt's address in MLflow's registry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    model: Literal["base", "tuned"]
    prompt: Prompt
    prompt_version: str
    examples: int
    facts: int
    retriever: Retriever
    max_prompt_tokens: int | None

    @property
    def looks_up(self) -> bool:
        """Whether it needs a store."""
        return bool(self.examples or self.facts)


class Rewritten(NamedTuple):
    """What the model reads, and the facts in it that were looked up."""

    messages: Messages
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompter:
    """An approach at work; the store is None where it looks nothing up."""

    approach: Approach
    store: Store | None

    @staticmethod
    def read(folder: Path) -> Prompter:
        """Return the approach that `save` wrote."""
        approach = Approach.model_validate_json((folder / APPROACH).read_bytes())
        return Prompter(approach, Store(folder / STORE) if approach.looks_up else None)

    def save(self, folder: Path) -> Path:
        """Write approach and store into a folder, and return it."""
        write_json(folder / APPROACH, self.approach.model_dump(mode="json"))
        if self.store:
            shutil.copyfile(self.store.path, folder / STORE)
        return folder

    def digest(self) -> str:
        """Return the sha256 of approach and store."""
        return value_digest([self.approach.model_dump(mode="json"), self.store and file_digest(self.store.path)])

    def rewrite(self, messages: Messages, tokens: Callable[[Messages], int]) -> Rewritten:
        """Return what the model reads in place of a caller's messages.

        The system turn is worded anew and the facts stand in it; the examples follow as turns, the one that fits
        best last, nearest to the question (Liu et al., 2022); then the caller's own turns, the last question in the
        prompt's words. Over the budget, the example that fits least goes first, and after them the facts.

        Args:
            messages: the caller's; without a user's turn they stay as they are.
            tokens: says how many tokens messages are.
        """
        asked = [place for place, message in enumerate(messages) if message["role"] == "user"]
        if not asked:
            return Rewritten(messages)
        question, limit = messages[asked[-1]]["content"], self.approach.max_prompt_tokens
        examples, facts = self._looked_up(question)
        written = self._written(messages, asked[-1], examples, facts)
        while limit is not None and (examples or facts) and tokens(written) > limit:
            examples, facts = (examples[:-1], facts) if examples else ([], facts[:-1])
            written = self._written(messages, asked[-1], examples, facts)
        return Rewritten(written, tuple(facts))

    def _looked_up(self, question: str) -> tuple[list[Example], list[str]]:
        approach = self.approach
        if self.store is None:
            return [], []
        return (
            self.store.examples(question, approach.examples, approach.retriever) if approach.examples else [],
            self.store.facts(question, approach.facts, approach.retriever) if approach.facts else [],
        )

    def _written(self, messages: Messages, last: int, examples: Sequence[Example], facts: Sequence[str]) -> Messages:
        prompt = self.approach.prompt
        own = "\n".join(message["content"] for message in messages if message["role"] == "system")
        known = "\n".join(f"- {fact}" for fact in facts) or "- nothing"
        system = _filled(prompt.system, system=own, facts=known).strip()
        shown = [(example.question, example.answer) for example in reversed(examples)]
        return [
            *([{"role": "system", "content": system}] if system else []),
            *(
                turn
                for question, answer in shown
                for turn in (
                    {"role": "user", "content": _filled(prompt.user, question=question)},
                    {"role": "assistant", "content": answer},
                )
            ),
            *(
                {**message, "content": _filled(prompt.user, question=message["content"])} if place == last else message
                for place, message in enumerate(messages)
                if message["role"] != "system"
            ),
        ]


def _filled(template: str, **values: str) -> str:
    """Return a template with its placeholders filled in; braces in the values stay as they are."""
    return PLACEHOLDER.sub(lambda found: values[found[1]], template)
