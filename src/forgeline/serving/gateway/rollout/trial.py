"""A challenger under traffic: who is answered by it, or whose requests are copied to it, and what came of that."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any, Literal

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from forgeline.config.schema.serve.rollout import Rollout
from forgeline.errors import ForgelineError
from forgeline.serving.engines.make import PRIMARY
from forgeline.serving.gateway.arm import Arm
from forgeline.serving.gateway.exchange import Caller, Exchange, fresh
from forgeline.serving.gateway.interactions import is_sampled
from forgeline.serving.gateway.protocol import ApiError, ChatRequest
from forgeline.serving.gateway.rollout.evidence import Evidence, Outcome
from forgeline.serving.gateway.rollout.outcomes import outcome_of

logger = logging.getLogger("forgeline.rollout")
Mode = Literal["canary", "shadow", "blue-green"]
REMEMBERED = 10_000  # replies whose thumbs are waited for


class Trial:
    """One arm on trial beside what is live; `tell` hears of it, once, that it is worse, and by what."""

    def __init__(
        self, arm: Arm, mode: Mode, share: float, settings: Rollout, evidence: Evidence, tell: Callable[[str], None]
    ) -> None:
        self.arm = arm
        self.mode = mode
        self.share = share
        self.evidence = evidence
        self.served = [0, 0]  # requests that were live's, and the challenger's
        self.failed_over = 0
        self.copies = Counter[str]()
        self._overlap = 0.0
        self._salt = fresh()
        self._most = settings.shadows
        self._tell = tell
        self._told = False
        self._copying: set[asyncio.Task[None]] = set()
        self._rated: OrderedDict[str, bool] = OrderedDict()  # by request id, whether the challenger answered it

    def takes(self, caller: Caller, body: ChatRequest) -> bool:
        """Whether the challenger answers a caller, and whom they speak for; the same one always or never."""
        if self.mode != "canary" or not self.arm.suits(body):
            return False
        return is_sampled(f"{self._salt} {caller.tenant} {caller.id} {body.user or ''}", self.share)

    def over(self, exchange: Exchange, outcome: Outcome | None) -> None:
        """Take note of an exchange that was answered, by either arm."""
        if outcome is None:
            return
        if self.mode == "shadow":
            self._copy(exchange, outcome)
        elif self.mode == "canary":
            challenger = exchange.arm is self.arm or exchange.failed
            self.failed_over += exchange.failed
            self._rated[exchange.id] = challenger
            if len(self._rated) > REMEMBERED:
                self._rated.popitem(last=False)
            self._note(challenger, outcome)

    def rated(self, id_: str, down: bool) -> None:
        """Take note of a thumb."""
        challenger = self._rated.pop(id_, None)
        if challenger is not None:
            self.evidence.add(challenger, Outcome(thumb=down))
            self._judge()

    async def close(self) -> None:
        """Copy nothing more."""
        for copying in self._copying:
            copying.cancel()
        if self._copying:
            await asyncio.wait(self._copying)

    def shown(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        live, challenger = self.served
        shown: dict[str, Any] = {"answered": {"live": live, "challenger": challenger, "failed_over": self.failed_over}}
        if self.mode == "shadow":
            compared = self.copies["compared"]
            shown["copies"] = {name: self.copies[name] for name in ("asked", "skipped", "failed", "compared", "same")}
            shown["copies"]["words_in_common"] = round(self._overlap / compared, 4) if compared else None
        return {**shown, "evidence": self.evidence.shown()}

    def collect(self) -> Iterator[Metric]:
        """Return what is told of it in Prometheus' format."""
        answered = CounterMetricFamily("forgeline_rollout_requests", "Of a roll-out, by arm.", labels=["arm"])
        for arm, number in zip(("live", "challenger"), self.served, strict=True):
            answered.add_metric([arm], number)
        against = "E-value against the challenger; it is aborted at 1 / rollout.alpha."
        yield answered
        yield GaugeMetricFamily("forgeline_rollout_e_value", against, value=self.evidence.shown()["e_value"])

    def _note(self, challenger: bool, outcome: Outcome) -> None:
        self.served[challenger] += 1
        self.evidence.add(challenger, outcome)
        self._judge()

    def _judge(self) -> None:
        if not self._told and (worse := self.evidence.worse):
            self._told = True
            self._tell(worse)

    def _copy(self, exchange: Exchange, outcome: Outcome) -> None:
        """Ask the challenger the same in the background, if it is the request's turn and not too many are on."""
        body = exchange.asked
        wanted = is_sampled(f"{self._salt} {exchange.id}", self.share)
        if not wanted or body is None or exchange.rung != PRIMARY or not self.arm.suits(body):
            return
        if len(self._copying) >= self._most:
            self.copies["skipped"] += 1
            return
        self.copies["asked"] += 1
        copying = asyncio.create_task(self._copied(exchange, body, outcome))
        self._copying.add(copying)
        copying.add_done_callback(self._copying.discard)

    async def _copied(self, exchange: Exchange, body: ChatRequest, live: Outcome) -> None:
        copy = Exchange(exchange.id, exchange.caller, self.arm.asked(body), arm=self.arm, served=self.arm.served)
        error: str | None = None
        self.arm.in_flight += 1
        try:
            masks = await self.arm.guards.inbound(copy)
            answer = self.arm.ladder.trial(copy, cached=False)
            async with aclosing(self.arm.guards.outbound(copy, answer, masks)) as reply:
                async for piece in reply:
                    copy.usage, copy.finish_reason = piece.usage, piece.finish_reason
        except ApiError as fault:
            error = str(fault.code)
        except ForgelineError:
            error = "engine_failed"
        except Exception:
            logger.exception("the challenger broke on a copied request")
            error = "internal"
        finally:
            self.arm.in_flight -= 1
        outcome = outcome_of(copy, error)
        if outcome is None:
            return
        if outcome.error:
            self.copies["failed"] += 1
        else:
            self.copies["compared"] += 1
            self.copies["same"] += copy.reply == exchange.reply
            self._overlap += _overlap(copy.reply, exchange.reply)
        self._note(False, live)
        self._note(True, outcome)


def _overlap(one: str, other: str) -> float:
    """Return the share of words that two texts have in common: F1 over the bags of words, as SQuAD scores answers."""
    words, others = Counter(one.split()), Counter(other.split())
    total = words.total() + others.total()
    return 2 * (words & others).total() / total if total else 1.0
