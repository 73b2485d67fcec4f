"""approaches.yaml: the ways to use a model that are compared, and the rule that chooses one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.section import Measure, Positive, Seconds, Section

Count = Annotated[int, Field(ge=0)]
Retriever = Literal[
    "bm25",  # the words that question and text share, rare ones first (Robertson and Zaragoza, 2009)
    "embeddings",  # the cosine of sentence embeddings (Reimers and Gurevych, 2019)
    "hybrid",  # both, by reciprocal rank fusion (Cormack et al., 2009)
]

PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
REGISTERED = "prompts:/"  # how the address of a prompt in the registry begins


class Prompt(Section):
    """The wording of a request.

    In `system`, `{{system}}` is the caller's own system turn and `{{facts}}` what was found for the question;
    in `user`, `{{question}}` is the caller's last turn.
    """

    system: str = "{{system}}"
    user: str = "{{question}}"

    @property
    def takes_facts(self) -> bool:
        """Whether retrieved facts have a place in it."""
        return "facts" in PLACEHOLDER.findall(self.system)

    @model_validator(mode="after")
    def _knows_its_placeholders(self) -> Prompt:
        if unknown := set(PLACEHOLDER.findall(self.system)) - {"system", "facts"}:
            raise ValueError(f"system has {', '.join(sorted(unknown))} in braces; legal: system, facts")
        if set(PLACEHOLDER.findall(self.user)) != {"question"}:
            raise ValueError("user must have {{question}}, and nothing else, in braces")
        return self


class Candidate(Section):
    """One way to use a model: as it is or tuned, with a prompt, retrieved training examples and retrieved facts.

    `prompt` is one of `prompts`, or the address of a registered one: prompts:/name/version.
    """

    model: Literal["base", "tuned"]
    prompt: str
    examples: Count = 0
    facts: Count = 0
    retriever: Retriever = "bm25"


class Knowledge(Section):
    """A file of facts (JSON, JSONL or CSV), and by which names its fields are told; null tells the value alone."""

    uri: str
    fields: Annotated[dict[str, str | None], Field(min_length=1)]


class Recommend(Section):
    """The rule that chooses an approach.

    Of those that are fast enough, `metric` says which is best. Another is as good if the whole confidence interval
    of its difference to the best is at most `within` worse. Of those as good, the one with least of `prefer` is it:
    tokens or money for a reply, or the median seconds until it is there.
    """

    metric: Measure
    within: Annotated[float, Field(ge=0)] = 0.0
    prefer: Literal["tokens", "cost", "latency"] = "tokens"
    latency_p95_max: Seconds | None = None


class Approaches(Section):
    """What is compared, on which budget.

    A prompt longer than `max_prompt_tokens` loses the examples and facts that fit least, never the caller's words.
    `latency_prompts` test prompts are asked one at a time to find out how long a reply takes.
    """

    prompts: Annotated[dict[Measure, Prompt], Field(min_length=1)]
    candidates: Annotated[dict[Measure, Candidate], Field(min_length=1)]
    knowledge: dict[Measure, Knowledge] = {}
    max_prompt_tokens: Positive | None = None
    latency_prompts: Positive = 20
    recommend: Recommend

    @model_validator(mode="after")
    def _fits_together(self) -> Approaches:
        if faults := "; ".join(self._faults()):
            raise ValueError(faults)
        return self

    def _faults(self) -> Iterator[str]:
        for name, candidate in self.candidates.items():
            if candidate.facts and not self.knowledge:
                yield f"candidates.{name} wants facts, but knowledge names no file"
            if candidate.prompt.startswith(REGISTERED):
                continue
            prompt = self.prompts.get(candidate.prompt)
            if prompt is None:
                yield f"candidates.{name}.prompt is {candidate.prompt}; legal: {', '.join(self.prompts)}, prompts:/…"
            elif prompt.takes_facts != bool(candidate.facts):
                yield f"candidates.{name} has facts: {candidate.facts}; " + (
                    f"prompts.{candidate.prompt} has {{{{facts}}}} in its system turn"
                    if prompt.takes_facts
                    else f"prompts.{candidate.prompt} has no {{{{facts}}}} in its system turn"
                )
