"""Start, promote, abort and roll back: the one roll-out that may be on, and what stays warm after it.

Whatever becomes live is in the order's file, and in the ledger, before anybody is answered by it: a gateway that is
killed at any moment starts again with what was decided last.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from forgeline.config.schema.serve.rollout import Rollout as Settings
from forgeline.errors import ForgelineError, LedgerError
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.gateway.arm import Arm, Arms
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.rollout import history
from forgeline.serving.gateway.rollout.change import OPEN, Change, Former, Question, named
from forgeline.serving.gateway.rollout.evidence import Evidence
from forgeline.serving.gateway.rollout.history import ABORTED, PROMOTED, ROLLED_BACK, SHARED, STARTED, History
from forgeline.serving.gateway.rollout.loading import asked, ready
from forgeline.serving.gateway.rollout.orders import before_live, decide, ordered
from forgeline.serving.gateway.rollout.trial import Mode, Trial
from forgeline.serving.gateway.webhooks.deliveries import Event
from forgeline.serving.order import Order

logger = logging.getLogger("forgeline.rollout")
LOOK_EVERY = 0.1  # seconds
EVIDENCE = "the evidence"


class Rollouts:
    """The roll-outs of one gateway: `path` is its order, `made` returns another one's arm, `tell` hears of each end."""

    def __init__(
        self,
        arms: Arms,
        path: Path | None,
        made: Callable[[Order, Manifest], Arm],
        tell: Callable[[Event, dict[str, Any]], None],
    ) -> None:
        self._arms = arms
        self._path = path
        self._made = made
        self._tell = tell
        self._changing = asyncio.Lock()
        self._last: Change | None = None
        self._former: Former | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[Arm] = set()

    async def recover(self) -> None:
        """Record what became of a roll-out that was open when the gateway last ended."""
        if self._path is None or (live := Order.read(self._path)).ledger is None:
            return
        try:
            await self._recover(live, History(self._path, live.ledger))
        except (OSError, LedgerError) as fault:  # callers are answered all the same
            logger.error("what became of the last roll-out cannot be told: %s", fault)

    async def _recover(self, live: Order, written: History) -> None:
        served = history.told(live, self._arms.live.manifest)
        left = await asyncio.to_thread(written.left_open)
        if left is None:
            return
        facts = {name: left[name] for name in ("rollout", "challenger")} | {"by": "the gateway"}
        if history.same(served, left["challenger"]):  # it ended between the two writes of a promotion
            reason = "the gateway ended while it was promoted"
            await asyncio.to_thread(written.write, PROMOTED, **facts, reason=reason, before=left["live"], live=served)
        else:
            await asyncio.to_thread(written.write, ABORTED, **facts, reason="the gateway ended during it", live=served)
        logger.warning("a roll-out was open when the gateway last ended: version %s answers", served["version"])

    async def start(
        self, name: str | None, mode: Mode, share: float | None, by: str, reason: str, questions: list[Question]
    ) -> dict[str, Any]:
        """Begin to load a bundle beside what is live: the one named, or what `challenger.json` orders.

        Raises:
            ApiError: 409 if one is open, or this one cannot be tried; 404 if it is not there.
        """
        async with self._changing:
            path, live = self._order()
            order = await asyncio.to_thread(ordered, path, live, name)
            share = live.serve.rollout.share if share is None else share
            return await self._begin(order, live, mode, 0.0 if mode == "blue-green" else share, by, reason, questions)

    async def promote(self, by: str, reason: str) -> dict[str, Any]:
        """Make the challenger what is live; what was live stays warm for a while.

        Raises:
            ApiError: 409 if there is none, or it is not ready.
        """
        async with self._changing:
            change = self._open("promote")
            if change.arm is None or change.state == "loading" or not change.arm.engine.ready:
                raise ApiError(409, f"Version {change.version} is not ready: it cannot be promoted.", "not_ready")
            await self._swap(change.order, change.arm, PROMOTED, by, reason, change)
            return self.shown()

    async def abort(self, by: str, reason: str) -> dict[str, Any]:
        """End the roll-out; raises ApiError 409 if there is none."""
        async with self._changing:
            await self._abort(self._open("abort"), by, reason)
            return self.shown()

    async def set_share(self, share: float, by: str, reason: str) -> dict[str, Any]:
        """Give a canary, or a shadow, another share; raises ApiError 409 if there is none."""
        async with self._changing:
            change = self._open("change")
            if change.mode not in ("canary", "shadow"):
                raise ApiError(409, f"In mode {change.mode} no share of the traffic is the challenger's.", "no_share")
            await self._write(SHARED, rollout=change.id, before=change.share, share=share, by=by, reason=reason)
            change.share = share
            if change.trial is not None:
                change.trial.share = share
            return self.shown()

    async def roll_back(self, name: str | None, by: str, reason: str) -> dict[str, Any]:
        """Make what was live before live again: at once if it is warm, else once it is loaded; or another bundle.

        Raises:
            ApiError: 409 while a roll-out is open, or if the bundle was altered; 404 if it, or any, is not there.
        """
        async with self._changing:
            path, live = self._order()
            self._refuse_second()
            former = self._former
            if name is None and former and former.arm.engine.ready:
                await self._swap(former.order, former.arm, ROLLED_BACK, by, reason)
                return self.shown()
            order = await asyncio.to_thread(before_live, path, live, self._arms.live.served.bundle, name)
            return await self._begin(order, live, "roll-back", 0.0, by, reason, [])

    def shown(self) -> dict[str, Any]:
        """Return what is live, the roll-out that is on or was last, and what is warm."""
        former = self._former
        return {
            "live": named(self._arms.live.served, self._arms.live.kind),
            "rollout": self._last.shown() if self._last else None,
            "former": named(former.arm.served, former.arm.kind) | {"until": former.until} if former else None,
            "order": str(self._path.resolve()) if self._path else None,
        }

    async def close(self) -> None:
        """Put down every arm, and record that a roll-out that is open is over."""
        arms = {self._arms.live, *self._retiring}
        if self._former is not None:
            arms.add(self._former.arm)
        if self._last is not None and self._last.state in OPEN:
            arms |= {self._last.arm} if self._last.arm else set()
            try:
                await self._abort(self._last, "the gateway", "it was stopped during it")
            except ApiError as fault:  # then it is recorded when the gateway starts again
                logger.error("%s", fault.detail)
            if self._last.trial is not None:
                await self._last.trial.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for arm in arms:
            await arm.close()

    async def _begin(
        self, order: Order, live: Order, mode: Any, share: float, by: str, reason: str, questions: list[Question]
    ) -> dict[str, Any]:
        self._refuse_second()
        try:
            manifest = await asyncio.to_thread(verify, order.bundle, order.serve.signing)
        except ForgelineError as fault:
            raise ApiError(409, f"{fault} What is live goes on.", "bundle_refused") from fault
        served = self._arms.live
        if manifest.lineage.model != served.served.model:
            wrong = f"{order.bundle} is of {manifest.lineage.model}; what is live is {served.served.model}."
            raise ApiError(409, wrong, "another_model")
        facts = {"challenger": history.told(order, manifest), "live": history.told(live, served.manifest)}
        if history.same(facts["challenger"], facts["live"]):
            raise ApiError(409, f"Version {manifest.lineage.version} on this engine is live already.", "live_already")
        change = Change(order, manifest, mode, share, by, reason)
        await self._write(STARTED, rollout=change.id, mode=mode, share=share, by=by, reason=reason, **facts)
        self._last = change
        change.loading = self._run(self._load(change, live.serve.rollout, questions))
        return self.shown()

    async def _load(self, change: Change, settings: Settings, questions: list[Question]) -> None:
        """Bring a challenger up, see that it answers, and let callers at it as its mode says."""
        try:
            change.arm = await asyncio.to_thread(self._made, change.order, change.manifest)
            self._arms.add(change.arm)
            await change.arm.start()
            await ready(change.arm, change.order)
            await asked(change.arm, questions)
            async with self._changing:
                await self._let_in(change, settings)
            return
        except (ForgelineError, ApiError) as fault:
            why = f"version {change.version} cannot answer: {fault}"
        except TimeoutError:
            why = f"version {change.version} was not ready in time"
        except Exception as fault:
            logger.exception("version %s cannot be tried", change.version)
            why = f"version {change.version} cannot be tried: {fault!r}"
        async with self._changing:
            await self._abort(change, "the gateway", why)

    async def _let_in(self, change: Change, settings: Settings) -> None:
        assert change.arm is not None  # noqa: S101
        if change.mode == "roll-back":
            await self._swap(change.order, change.arm, ROLLED_BACK, change.by, change.reason, change)
            return
        margins = settings.margins.model_dump(exclude_none=True)
        evidence = Evidence(margins, settings.alpha, self._arms.latencies)
        tell: Callable[[str], None] = lambda worse: self._worse(change, worse)  # noqa: E731
        change.trial = Trial(change.arm, change.mode, change.share, settings, evidence, tell)
        change.state = "ready" if change.mode == "blue-green" else "running"
        self._arms.trial = change.trial

    def _worse(self, change: Change, measure: str) -> None:
        """Give a challenger no more requests, at once, and then record why."""
        self._arms.trial = None

        async def abort() -> None:
            async with self._changing:
                if change.state in OPEN:
                    await self._abort(change, EVIDENCE, f"worse by {measure}")

        self._run(abort())

    async def _abort(self, change: Change, by: str, reason: str) -> None:
        if change.loading is not None and change.loading is not asyncio.current_task():
            change.loading.cancel()
            await asyncio.wait((change.loading,))
        self._arms.trial = None
        change.state, change.ended, change.why = "aborted", time.time(), reason
        figures = change.trial.shown() if change.trial else {}
        served = {"version": change.version, "bundle": change.manifest.digest}
        self._retire(change)
        logger.warning("the roll-out of version %s is aborted by %s: %s", served["version"], by, reason)
        self._tell("rollout.ended", {"state": "aborted", "version": served["version"], "by": by, "why": reason})
        await self._write(ABORTED, rollout=change.id, challenger=served, by=by, reason=reason, figures=figures)

    async def _swap(
        self, order: Order, arm: Arm, action: str, by: str, reason: str, change: Change | None = None
    ) -> None:
        """Make an arm what is live, in the order's file and the ledger first, and keep the one before it warm."""
        path, live = self._order()
        before = history.told(live, self._arms.live.manifest)
        facts = {"live": history.told(order, arm.manifest), "before": before, "by": by, "reason": reason}
        if change is not None:
            facts |= {"rollout": change.id, "figures": change.trial.shown() if change.trial else {}}
        await asyncio.to_thread(decide, path, order, live, action, facts)
        former, cooled = self._arms.live, self._former
        self._arms.live, self._arms.trial = arm, None
        if change is not None:
            change.state, change.ended = ("promoted" if action == PROMOTED else "rolled back"), time.time()
            self._end_trial(change)
        elif self._last is not None and self._last.state == "promoted":
            self._last.state = "rolled back"
        if cooled is not None and cooled.cooling is not None:
            cooled.cooling.cancel()
            if cooled.arm is not arm:
                self._run(self._retired(cooled.arm))
        self._former = None
        if action == PROMOTED:
            warm = live.serve.rollout.warm
            self._former = Former(former, live, time.time() + warm)
            self._former.cooling = self._run(self._cool(self._former, warm))
        else:
            self._run(self._retired(former))
        state = "promoted" if action == PROMOTED else "rolled back"
        self._tell("rollout.ended", {"state": state, "version": arm.served.version, "by": by, "why": reason})
        logger.warning("version %s is live: %s by %s", arm.served.version, state, by)

    async def _cool(self, former: Former, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._former is former:
            self._former = None
        await self._retired(former.arm)

    def _retire(self, change: Change) -> None:
        self._end_trial(change)
        if change.arm is not None:
            self._run(self._retired(change.arm))
            change.arm = None

    def _end_trial(self, change: Change) -> None:
        if change.trial is not None:
            self._run(change.trial.close())

    async def _retired(self, arm: Arm) -> None:
        """Put an arm down once nobody waits for it any more."""
        self._retiring.add(arm)
        while arm.in_flight:  # each for limits.request_timeout at most
            await asyncio.sleep(LOOK_EVERY)
        await arm.close()
        self._retiring.discard(arm)
        self._arms.remove(arm)
        gc.unfreeze()  # a model that was frozen with all that start-up made would stay in memory for ever
        gc.collect()
        gc.freeze()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            logger.error("a roll-out's work failed: %s", fault, exc_info=fault)

    def _order(self) -> tuple[Path, Order]:
        if self._path is None or (live := Order.read(self._path)).ledger is None:
            message = "This gateway was not started from an order with a ledger: `forgeline deploy` writes one."
            raise ApiError(409, message, "no_order")
        return self._path, live

    def _open(self, what: str) -> Change:
        if self._last is None or self._last.state not in OPEN:
            raise ApiError(409, f"There is no roll-out to {what}: start one.", "no_rollout")
        return self._last

    def _refuse_second(self) -> None:
        if self._last is not None and self._last.state in OPEN:
            message = f"A roll-out of version {self._last.version} is open: promote or abort it first."
            raise ApiError(409, message, "rollout_open")

    async def _write(self, action: str, **facts: Any) -> None:
        path, live = self._order()
        assert live.ledger is not None  # noqa: S101
        try:
            await asyncio.to_thread(History(path, live.ledger).write, action, **facts)
        except (OSError, LedgerError) as fault:
            message = f"The ledger takes no entry ({fault}), and nothing is changed without one."
            raise ApiError(503, message, "ledger_unavailable", retry_after=5) from fault
