"""What goes in and out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.data import PiiKind
from forgeline.config.schema.section import Positive, Seconds, Section, Share

Action = Literal["off", "flag", "mask", "block"]
Term = Annotated[str, Field(min_length=1)]


class Rule(Section):
    """What is done about what a guard finds: nothing, a note in the verdicts, another text in its place, or a refusal.

    A guard that raises, takes more than `limit` seconds or returns nonsense has found nothing where `on_error` is
    `open`, and blocks where it is `closed`. Each gives its verdict either way.
    """

    action: Action = "flag"
    on_error: Literal["open", "closed"] = "open"
    limit: Seconds = 1.0


class Personal(Rule):
    """Personal data in messages; `mask` puts tags in their place, and the values back into the reply.

    `regions` (ISO 3166) choose the national forms of phones, ids and postcodes.
    """

    action: Action = "mask"
    on_error: Literal["open", "closed"] = "closed"
    kinds: tuple[PiiKind, ...] = ("email", "phone", "card", "iban", "ip", "national_id")
    regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = ("GB", "US")


class Secrets(Rule):
    """Keys, passwords, tokens and credentials in messages, which nobody meant to send.

    A lone word of 32 characters or more with that many bits to the character is taken for a token.
    """

    action: Action = "block"
    on_error: Literal["open", "closed"] = "closed"
    entropy: Annotated[float, Field(ge=0)] = 4.3


class Injection(Rule):
    """Instructions in messages to leave the instructions; `threshold` is how sure the classifier must be."""

    threshold: Share = 0.6


class Topic(Rule):
    """What may be spoken of: no message has a denied term, and the last one has an allowed one, if there are any."""

    action: Action = "block"
    denied: tuple[Term, ...] = ()
    allowed: tuple[Term, ...] = ()


class Length(Rule):
    """How long a request may be; tokens are estimated as a quarter of its bytes."""

    action: Literal["off", "flag", "block"] = "block"
    characters: Positive = 32_000
    turns: Positive = 64
    tokens: Positive = 8_000


class Toxicity(Rule):
    """Replies that the data line's classifier, blind to whom they speak of, takes for toxic."""

    action: Action = "block"
    threshold: Share = 0.9


class Policy(Rule):
    """Patterns that no reply may have: regular expressions of RE2, which take linear time."""

    action: Action = "block"
    denied: tuple[Term, ...] = ()


class Custom(Rule):
    """A guard of one's own: an entry point of the group `forgeline.guards`, or `module:Class`, and its arguments."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    guard: Annotated[str, Field(pattern=r"^[\w.]+(:\w+)?$")]
    side: Literal["in", "out"]
    settings: dict[str, Any] = {}
    limit: Seconds = 0.25


class Guards(Section):
    """What is looked for in requests and replies, and what is done about it.

    Replies are read by window: up to the end of a sentence, or so many characters. `withheld` is what a caller
    reads in place of a reply, or of the rest of it, that was blocked.
    """

    pii: Personal = Personal()
    secrets: Secrets = Secrets()
    injection: Injection = Injection()
    topic: Topic = Topic()
    length: Length = Length()
    toxicity: Toxicity = Toxicity()
    leak: Rule = Rule()
    policy: Policy = Policy()
    ungrounded: Rule = Rule()
    custom: tuple[Custom, ...] = ()
    window: Annotated[int, Field(ge=128)] = 240
    withheld: str = "[This reply was withheld by the service's policy.]"

    @model_validator(mode="after")
    def _has_names_of_their_own(self) -> Guards:
        taken = {*type(self).model_fields} - {"custom", "window", "withheld"}
        for guard in self.custom:
            if guard.name in taken:
                raise ValueError(f"custom: there is a guard {guard.name} already; give it another name")
            taken.add(guard.name)
        return self
