"""When an engine fails, and what need not be asked again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from forgeline.config.schema.section import Positive, Seconds, Section, Share

Rung = Literal["engine", "other", "cached", "template", "human"]
Text = Annotated[str, Field(min_length=1)]


class Breaker(Section):
    """When an engine is left alone: `failures` of its last calls went wrong, and there were at least `calls`."""

    window: Seconds = 30.0  # how far back a call counts
    calls: Positive = 10
    failures: Annotated[float, Field(gt=0, le=1)] = 0.5
    slow: Seconds = 20.0  # a first token later than this is a failure too
    rest: Seconds = 10.0  # until one call tries whether the engine is well again


class Template(Section):
    """A written reply, for questions with any of these words; without words it is for every question."""

    words: tuple[Text, ...] = ()
    text: Text


class Ladder(Section):
    """What answers when the engine does not, in order.

    `engine` is the deployment's own, `other` are `serve.others` one after the other, `cached` the last good answer to
    the very same question, `template` the first of `templates` that fits, `human` a ticket of the review queue.
    """

    rungs: tuple[Rung, ...] = ("engine", "other", "cached")
    tries: Positive = 3  # of one engine, while no caller has seen any of its reply
    backoff: Seconds = 0.1  # the longest wait before the second try; it doubles with each
    patience: Seconds = 30.0  # an engine that is silent for longer hangs
    breaker: Breaker = Breaker()
    templates: tuple[Template, ...] = ()
    ticket_text: str = "I cannot answer this now. A person will: your ticket is {ticket}."

    @model_validator(mode="after")
    def _can_be_climbed(self) -> Ladder:
        if len(set(self.rungs)) < len(self.rungs) or self.rungs[:1] != ("engine",):
            raise ValueError("rungs begins with engine and names no rung twice")
        if ("template" in self.rungs) != bool(self.templates):
            raise ValueError("the rung template and templates need each other")
        always = [template for template in self.templates if not template.words]
        if always and (always != [self.templates[-1]] or self.rungs[-1] != "template"):
            raise ValueError("a template without words answers everything: nothing may come after it")
        if "human" in self.rungs[:-1]:
            raise ValueError("the rung human answers everything: nothing may come after it")
        return self

    @field_validator("ticket_text")
    @classmethod
    def _names_ticket(cls, text: str) -> str:
        if "{ticket}" not in text:
            raise ValueError("it must name the {ticket}")
        return text


class Semantic(Section):
    """Answers to questions in other words; the guard of gateway/cache/semantic.py decides beside the cosine."""

    threshold: Share = 0.9  # the least cosine of the two questions' embeddings


class Cache(Section):
    """Answers that are given again, to the same tenant only; they lie in memory."""

    bytes: Annotated[int, Field(ge=0)] = 64_000_000  # of answers; 0 keeps none
    seconds: Seconds = 3600.0  # how long an answer is given instead of asking
    stale_seconds: Seconds = 86_400.0  # how long it may stand in when no engine answers
    semantic: Semantic | None = None
