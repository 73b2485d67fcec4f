"""The way of one chat request: its turn, what goes in, an answer, what goes out, what is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from forgeline.errors import ServingError
from forgeline.serving.engines import Piece, Usage
from forgeline.serving.gateway.access.routes import admit_model
from forgeline.serving.gateway.arm import Arm, Arms
from forgeline.serving.gateway.exchange import Caller, Exchange
from forgeline.serving.gateway.interactions import Interactions
from forgeline.serving.gateway.limits import Limits
from forgeline.serving.gateway.limits.allowances import UNIT
from forgeline.serving.gateway.protocol import ApiError, ChatRequest, Completion, from_engine, from_validation
from forgeline.serving.gateway.review_routes import waiting
from forgeline.serving.gateway.reviews import Reviews
from forgeline.serving.gateway.store import StoreFailed
from forgeline.serving.gateway.telemetry.telemetry import Telemetry
from forgeline.serving.gateway.telemetry.traces import Trace
from forgeline.serving.gateway.traffic import Traffic

logger = logging.getLogger("forgeline.gateway")
TOKEN_BYTES = 3  # likely: English has 3.5 to 5 to a token, digits and other scripts 1 to 2
MESSAGE_TOKENS = 16  # that a chat template may put around a message


@dataclass(frozen=True)
class Chat:
    """What a chat request goes through; which of the `arms` answers is found when it comes.

    `tell_blocked` hears of every exchange that a guard blocked, once it is on record.
    """

    arms: Arms
    traffic: Traffic
    limits: Limits
    interactions: Interactions
    reviews: Reviews
    telemetry: Telemetry
    tell_blocked: Callable[[Exchange], None]

    def exchange(self, body: ChatRequest, caller: Caller, id_: str) -> Exchange:
        """Return the exchange that a request begins.

        Raises:
            ApiError: if the caller may not ask for its model, or there is none of that name.
        """
        admit_model(caller, body.model)
        arm = self.arms.chosen(caller, body)
        return Exchange(id_, caller, arm.asked(body), bool(body.stream), asked=body, arm=arm, served=arm.served)

    def completion(self, exchange: Exchange) -> Completion:
        """Return how its reply, whose first piece is there, is put on the wire."""
        served = exchange.served
        model = exchange.request.model or served.model
        return Completion(exchange.id, model, served.bundle[:16], lambda: _told(exchange))

    async def reply(self, exchange: Exchange, fresh: bool = False, background: bool = False) -> AsyncGenerator[Piece]:
        """Yield what the caller may read; whatever comes of it is on record before its last piece, or error, is out.

        Raises:
            ApiError: at any piece.
        """
        status, error = 499, "client_closed"  # unless it comes to an end
        last: Piece | None = None
        trace = Trace()
        trace.join(exchange.traceparent, exchange.caller)
        try:
            self.interactions.check()
            async with aclosing(self._guarded(exchange, trace, fresh, background)) as pieces:
                while (piece := await self._next(pieces)) is not None:
                    exchange.first_token = exchange.first_token or exchange.age()
                    if piece.finish_reason is None:
                        yield piece
                    else:
                        last, exchange.finish_reason = piece, piece.finish_reason
            if last is None:
                raise ApiError(500, "The reply broke off.", "engine_failed")
            await self._passed(exchange, fresh)
            status, error = 200, ""
        except ServingError as fault:
            known = from_engine(fault)
            status, error = known.status_code, str(known.code)
            raise known from fault
        except ApiError as fault:
            status, error = fault.status_code, str(fault.code)
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            status, error = 500, "internal"
            raise
        finally:
            await asyncio.shield(self._over(exchange, trace, status, error or None))
        yield last

    async def answer(self, body: dict[str, Any], caller: Caller) -> tuple[int, dict[str, Any]]:
        """Return status and body for a request that nobody waits for, after all others."""
        try:
            asked = ChatRequest.model_validate(body)
            exchange = self.exchange(asked.model_copy(update={"stream": False}), caller, uuid4().hex)
            pieces = [piece async for piece in self.reply(exchange, background=True)]
        except ValidationError as fault:
            refusal = from_validation([{**each, "loc": ("body", *each["loc"])} for each in fault.errors()])
            return refusal.status_code, refusal.body()
        except ApiError as fault:
            return fault.status_code, fault.body()
        if exchange.held:
            return 202, waiting(str(exchange.ticket))
        return 200, self.completion(exchange).whole(pieces)

    async def _guarded(self, exchange: Exchange, trace: Trace, fresh: bool, background: bool) -> AsyncGenerator[Piece]:
        asked = exchange.request
        # A token is a byte or more, so no tokenizer need be asked; what is not used is given back.
        size = sum(len(message["content"].encode()) for message in asked.messages)
        around = MESSAGE_TOKENS * len(asked.messages)
        most, likely = size + around, size // TOKEN_BYTES + around
        async with AsyncExitStack() as held:
            with trace.span("limits"):
                turn = self.limits.admitted(exchange.caller, most, asked.max_tokens, background, likely)
                admission = await held.enter_async_context(turn)
            exchange.headers = admission.headers
            self._choose_again(exchange)
            trial = exchange.arm is not self.arms.live
            try:
                answer = self._tried(exchange, trace, fresh) if trial else self._by_arm(exchange, trace, fresh)
                async with aclosing(answer) as reply:
                    async for piece in reply:
                        yield piece
            finally:
                await asyncio.shield(admission.settle(exchange.usage if _worked(exchange) else None))

    def _choose_again(self, exchange: Exchange) -> None:
        """Leave an arm that answers no more, though it did when the exchange began to wait for its turn."""
        assert exchange.asked is not None  # noqa: S101
        arm = self.arms.chosen(exchange.caller, exchange.asked)
        if arm is not exchange.arm:
            exchange.begin_again(arm)

    async def _tried(self, exchange: Exchange, trace: Trace, fresh: bool) -> AsyncGenerator[Piece]:
        """Yield what a challenger answers; if it fails before its first byte, what the live arm does."""
        begun = False
        try:
            async with aclosing(self._by_arm(exchange, trace, fresh, trial=True)) as reply:
                async for piece in reply:
                    begun = True
                    yield piece
            return
        except Exception as fault:
            if begun or (isinstance(fault, ApiError) and fault.status_code < 500):
                raise
            logger.warning("version %s did not answer %s: %s", exchange.served.version, exchange.id, fault)
        exchange.failed = True
        exchange.begin_again(self.arms.live)
        async with aclosing(self._by_arm(exchange, trace, fresh)) as reply:
            async for piece in reply:
                yield piece

    async def _by_arm(
        self, exchange: Exchange, trace: Trace, fresh: bool, trial: bool = False
    ) -> AsyncGenerator[Piece]:
        """Yield what the exchange's arm answers, through its guards; on trial, its own engine alone."""
        arm = _arm(exchange)
        arm.in_flight += 1
        try:
            with trace.span("guards"):
                masks = await arm.guards.inbound(exchange)
            exchange.masked = True
            answer = arm.ladder.trial if trial else arm.ladder.answer
            noted = self._noted(exchange, trace, answer(exchange, not fresh))
            async with aclosing(arm.guards.outbound(exchange, noted, masks)) as reply:
                async for piece in reply:
                    yield piece
        finally:
            arm.in_flight -= 1

    async def _noted(self, exchange: Exchange, trace: Trace, answer: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
        """Pass an answer on; note what was used so far, for a reply may be cut at any piece."""
        with trace.span("answer") as span:
            async with aclosing(answer):
                async for piece in answer:
                    exchange.facts += piece.facts
                    self._count(exchange, piece.usage)
                    yield piece
            span.attributes["forgeline.rung"] = exchange.rung

    def _count(self, exchange: Exchange, usage: Usage) -> None:
        before, exchange.usage = exchange.usage or Usage(0, 0), usage
        for direction, number in (
            ("prompt", usage.prompt_tokens - before.prompt_tokens),
            ("completion", usage.completion_tokens - before.completion_tokens),
        ):
            if number:
                self.telemetry.metrics.count_tokens(direction, number, exchange.request.model)

    async def _next(self, pieces: AsyncGenerator[Piece]) -> Piece | None:
        try:
            async with self.traffic.waiting():
                return await anext(pieces, None)
        except TimeoutError:
            if self.traffic.over:
                message = "The server shut down before the reply was complete."
                raise ApiError(503, message, "draining") from None
            raise ApiError(504, "The request took longer than limits.request_timeout.", "timeout") from None

    async def _passed(self, exchange: Exchange, fresh: bool) -> None:
        """Queue a whole reply for a person, if one must look, and keep it for the next who asks the same."""
        why = self.reviews.due(exchange) if exchange.ticket is None else None
        if why is not None:
            try:
                await self.reviews.submit(exchange, why)
            except StoreFailed as fault:
                message = "A person must look at this reply, and it cannot be put before one now."
                raise ApiError(503, message, "review_unavailable", retry_after=5) from fault
            exchange.held = self.reviews.waits(why)
        if not (exchange.held or fresh):
            await _arm(exchange).cache.keep(exchange)

    async def _over(self, exchange: Exchange, trace: Trace, status: int, error: str | None) -> None:
        if not exchange.masked:  # what was refused before that leaves no words behind
            exchange.request = replace(exchange.request, messages=[])
        used = exchange.usage if _worked(exchange) else None
        cost = self.limits.price(used) / UNIT if used else 0.0
        self.arms.over(exchange, error)
        self.telemetry.answered(exchange, trace, error, cost)
        await self.interactions.record(exchange, status, error, cost)
        if any(verdict.action == "block" for verdict in exchange.verdicts):
            self.tell_blocked(exchange)


def _arm(exchange: Exchange) -> Arm:
    assert exchange.arm is not None  # noqa: S101
    return exchange.arm


def _worked(exchange: Exchange) -> bool:
    """Whether an engine did: what it wrote before costs nothing again."""
    return exchange.rung in _arm(exchange).engines


def _told(exchange: Exchange) -> dict[str, Any]:
    """Return what the answer says beside OpenAI's fields."""
    verdicts = [
        {"guard": each.guard, "side": each.side, "action": each.action, "detail": each.detail}
        for each in exchange.verdicts
        if each.action != "pass"
    ]
    told = {"version": exchange.served.version, "rung": exchange.rung, "ticket": exchange.ticket}
    return {**told, "facts": list(exchange.facts), "verdicts": verdicts}
