"""Where requests come in and replies go out."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from forgeline.config.schema.serve.guards import Custom, Rule
from forgeline.config.schema.serve.guards import Guards as Settings
from forgeline.errors import SourceError
from forgeline.serving.engines import Piece
from forgeline.serving.gateway.exchange import Exchange
from forgeline.serving.gateway.guards import custom
from forgeline.serving.gateway.guards.guard import Finding, Guard, Passage
from forgeline.serving.gateway.guards.injection import Injections
from forgeline.serving.gateway.guards.masks import Masks
from forgeline.serving.gateway.guards.outgoing import Reply
from forgeline.serving.gateway.guards.personal import Leak, PersonalData, SecretData
from forgeline.serving.gateway.guards.posts import Blocked, Post, Record
from forgeline.serving.gateway.guards.replies import Toxicities, Ungrounded
from forgeline.serving.gateway.guards.words import Lengths, Policies, Topics
from forgeline.serving.gateway.protocol import ApiError

logger = logging.getLogger("forgeline.guards")


class Guards:
    """The guards of one deployment.

    Raises:
        ServingError: for a pattern or a guard of one's own that cannot be used.
        SourceError: if the toxicity classifier cannot be had, and its guard fails closed.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self._settings = settings
        topic, policy = settings.topic, settings.policy
        self._personal = PersonalData(settings.pii.kinds, settings.pii.regions)
        self.incoming = [
            *_post("length", settings.length, lambda: Lengths(settings.length)),
            *_post("secrets", settings.secrets, lambda: SecretData(settings.secrets)),
            *_post("injection", settings.injection, lambda: Injections(settings.injection)),
            *(_post("topic", topic, lambda: Topics(topic)) if topic.denied or topic.allowed else []),
            *_post("pii", settings.pii, lambda: self._personal),
            *_own(settings.custom, "in"),  # strangers, who see what the model sees
        ]
        self.outgoing = [
            *(_post("policy", policy, lambda: Policies(policy)) if policy.denied else []),
            *_post("toxicity", settings.toxicity, lambda: Toxicities(settings.toxicity)),
            *_post("leak", settings.leak, lambda: Leak(self._personal)),
            *_post("ungrounded", settings.ungrounded, Ungrounded),
            *_own(settings.custom, "out"),
        ]

    def scrubbed(self, text: str) -> str:
        """Return a text with a kind in place of whatever is personal in it."""
        return self._personal.scrubbed(text)

    async def inbound(self, exchange: Exchange) -> Masks:
        """Judge a request, and mask it where it stands; return what restores the reply.

        Raises:
            ApiError: 400 if it is blocked, 503 if a guard that fails closed failed.
        """
        record = Record(self.incoming, "in")
        try:
            return await self._judged(exchange, record)
        except Blocked as blocked:
            raise _refusal(blocked) from None
        finally:
            exchange.verdicts += record.verdicts()

    async def _judged(self, exchange: Exchange, record: Record) -> Masks:
        request = exchange.request
        roles = [message["role"] for message in request.messages]
        texts = [*(message["content"] for message in request.messages), *request.stop]
        given = list(texts)
        last = len(roles) - 1
        masks = Masks(texts)
        for post in self.incoming:
            messages = tuple(zip(roles, given, strict=False))
            for place, text in enumerate(given[:1] if post.name == "length" else given):
                passage = Passage(text, "in", messages, roles[min(place, last)], place == last)
                found = await record.ask(post, passage)
                if record.act(post, found):
                    given[place] = masks.masked(text, found)
        given = [masks.mask_known(text) for text in given]
        if given != texts:
            renewed = [{"role": role, "content": text} for role, text in zip(roles, given, strict=False)]
            exchange.request = replace(request, messages=renewed, stop=tuple(given[len(roles) :]))
        return masks

    async def outbound(self, exchange: Exchange, pieces: AsyncGenerator[Piece], masks: Masks) -> AsyncGenerator[Piece]:
        """Yield what of a reply may be seen, restored; what is blocked ends it with `content_filter`.

        Before the last piece, `exchange.reply` is what was said, with tags for whatever is personal in it.
        """
        # Without guards nothing waits but the beginning of a tag; without a stream, all is read at once.
        size = 0 if not self.outgoing else self._settings.window if exchange.stream else None
        record = Record(self.outgoing, "out")
        scrub = self._personal.scrubbed if self._settings.pii.action != "off" else str
        reply = Reply(exchange, masks, record, self.outgoing, size, scrub)
        async with aclosing(pieces):
            try:
                async for piece in pieces:
                    passed = await reply.passed(piece, self._settings.withheld)
                    if passed is not None:
                        yield passed
                        if passed.finish_reason:
                            return
            finally:
                reply.close()


def _post(name: str, rule: Rule, make: Callable[[], Guard]) -> list[Post]:
    """Return a guard on duty, or none if it is off; one that cannot be made fails at every passage, if it may."""
    if rule.action == "off":
        return []
    try:
        return [Post(name, make(), rule)]
    except SourceError as fault:
        if rule.on_error == "closed":
            raise
        logger.warning("guard %s fails open: %s", name, fault)
        return [Post(name, _Missing(), rule)]


class _Missing:
    def inspect(self, passage: Passage) -> Iterable[Finding]:
        raise LookupError


def _own(settings: Sequence[Custom], side: str) -> list[Post]:
    return [
        Post(one.name, custom.load(one), one, trusted=False)
        for one in settings
        if one.side == side and one.action != "off"
    ]


def _refusal(blocked: Blocked) -> ApiError:
    if blocked.failed:
        message = f"The guard {blocked.guard} could not judge this request; try again."
        return ApiError(503, message, "guard_failed", "messages", retry_after=1)
    kinds = ", ".join(blocked.kinds)
    message = f"This request is against the service's policy ({blocked.guard}: {kinds})."
    return ApiError(400, message, "content_policy", "messages")
