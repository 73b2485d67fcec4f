"""What can be evaluated: a model in this process, or one behind a URL that speaks the OpenAI chat API."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from forgeline.errors import EvaluationError
from forgeline.models import Example, LanguageModel, Reply, encode_example, encode_prompt, encode_text, generate
from forgeline.models.score import windowed_losses
from forgeline.records import Record

Messages = list[dict[str, str]]
API_KEY = "OPENAI_API_KEY"
TIMEOUT = 60.0  # seconds for one reply


class Subject(Protocol):
    """Something that answers chat messages."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def vocabulary(self) -> str:
        """The digest of its tokens; empty where nobody knows them."""
        ...

    def replies(
        self, prompts: Sequence[Messages], max_new_tokens: int, advance: Callable[[int], None] = lambda replies: None
    ) -> list[Reply]:
        """Return the greedy reply to each prompt, in order; `advance` is told how many more there are."""
        ...

    def losses(self, records: Sequence[Record]) -> list[tuple[float, int]] | None:
        """Return (summed loss in nats, tokens) of each record's completion; None where it cannot be known."""
        ...

    def text_losses(self, texts: Sequence[str], max_tokens: int | None = None) -> list[tuple[float, int]] | None:
        """Return (summed loss in nats, tokens) of each text, or of its first tokens; None where it cannot be known."""
        ...


@dataclass(frozen=True)
class Local:
    """A model in this process."""

    name: str
    language_model: LanguageModel
    batch_size: int = 32

    @property
    def vocabulary(self) -> str:
        """The digest of the model's tokens."""
        return self.language_model.vocabulary

    def replies(
        self, prompts: Sequence[Messages], max_new_tokens: int, advance: Callable[[int], None] = lambda replies: None
    ) -> list[Reply]:
        """Return the greedy reply to each prompt, in order."""
        ids = [encode_prompt(self.language_model.tokenizer, prompt) for prompt in prompts]
        return generate(self.language_model, ids, max_new_tokens, self.batch_size, advance)

    def losses(self, records: Sequence[Record]) -> list[tuple[float, int]]:
        """Return (summed loss in nats, tokens) of each record's completion; a plain text is scored as it is.

        What is longer than the model's context is scored by a window that moves on by half of it.
        """
        tokenizer = self.language_model.tokenizer
        examples = [
            encode_example(tokenizer, record) if record.prompt else encode_text(tokenizer, record.completion)
            for record in records
        ]
        return self._scored(examples)

    def text_losses(self, texts: Sequence[str], max_tokens: int | None = None) -> list[tuple[float, int]]:
        """Return (summed loss in nats, tokens) of each plain text, without a chat template."""
        return self._scored([encode_text(self.language_model.tokenizer, text, max_tokens) for text in texts])

    def _scored(self, examples: Sequence[Example]) -> list[tuple[float, int]]:
        model = self.language_model.model
        window = model.config.get_text_config().max_position_embeddings
        return windowed_losses(model, examples, window, window // 2)


@dataclass(frozen=True)
class Endpoint:
    """A model behind a URL that speaks the OpenAI chat API, asked one prompt at a time.

    `url` is what clients call the base URL (`http://host:port/v1`). The key is read from OPENAI_API_KEY.
    """

    name: str
    url: str
    model: str
    timeout: float = TIMEOUT
    vocabulary: str = ""

    def replies(
        self, prompts: Sequence[Messages], max_new_tokens: int, advance: Callable[[int], None] = lambda replies: None
    ) -> list[Reply]:
        """Return the greedy reply to each prompt, in order.

        Raises:
            EvaluationError: naming the prompt that was not answered; half an evaluation is none.
        """
        from openai import OpenAI, OpenAIError

        client = OpenAI(base_url=self.url, api_key=os.environ.get(API_KEY, "none"), timeout=self.timeout)
        found = []
        for number, prompt in enumerate(prompts, start=1):
            started = time.perf_counter()
            try:
                answer = client.chat.completions.create(
                    model=self.model,
                    messages=prompt,  # type: ignore[arg-type]
                    max_tokens=max_new_tokens,
                    temperature=0,
                    extra_headers={"cache-control": "no-store"},  # what is measured must be generated
                )
            except OpenAIError as error:
                raise EvaluationError(
                    f"{self.url} did not answer test prompt {number} of {len(prompts)} ({error}): nothing was scored. "
                    "See that it runs, and evaluate again."
                ) from error
            waited = time.perf_counter() - started
            choice, usage = answer.choices[0], answer.usage
            text = (choice.message.content or "").strip()
            tokens = usage.completion_tokens if usage else len(text.split())
            found.append(Reply(text, tokens, choice.finish_reason == "stop", waited, waited))
            advance(1)
        return found

    def losses(self, records: Sequence[Record]) -> None:
        """Return None: the chat API does not tell how likely a given reply is."""

    def text_losses(self, texts: Sequence[str], max_tokens: int | None = None) -> None:
        """Return None, as `losses` does."""


def endpoint(url: str) -> Endpoint:
    """Return the model behind a URL: the one named after `#`, or the first that it lists.

    Raises:
        EvaluationError: if it does not answer, or lists none.
    """
    from openai import OpenAI, OpenAIError

    address, _, model = url.partition("#")
    if not model:
        client = OpenAI(base_url=address, api_key=os.environ.get(API_KEY, "none"), timeout=TIMEOUT)
        try:
            model = next((each.id for each in client.models.list()), "")
        except OpenAIError as error:
            raise EvaluationError(
                f"{address}/models does not answer ({error}): give the base URL of an OpenAI-compatible service, "
                f"such as http://127.0.0.1:8600/v1; a key is read from {API_KEY}."
            ) from error
        if not model:
            raise EvaluationError(f"{address} lists no model: name one, as {address}#name.")
    return Endpoint(url, address, model)
