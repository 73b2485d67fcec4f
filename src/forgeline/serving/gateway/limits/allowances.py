"""What each key may ask and spend, in the gateway's database. Money is counted in whole billionths of its currency.

A reservation is spent until it is settled, so one that never is (a gateway killed meanwhile) stays spent, in full:
nobody knows what the engine did for it. One conditional UPDATE reserves, whatever gateway it comes from.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, Connection, Float, Integer, String, Table, bindparam, case, select, update

from forgeline.errors import ServingError
from forgeline.serving.gateway.store import METADATA, Store, StoreFailed

Period = Literal["day", "month", "total"]
UNIT = 1_000_000_000
MOST = 1_000_000_000  # of a currency: what 64 bits hold of units, with room to add
ALLOWANCES = Table(
    "allowances",
    METADATA,
    Column("key", String, primary_key=True),
    Column("requests_per_minute", Integer),  # these three: null is the settings' value
    Column("tokens_per_minute", Integer),
    Column("concurrency", Integer),
    Column("budget", BigInteger),  # null is without bound
    Column("period", String),
    Column("began", Float, nullable=False, default=0.0),  # the period that `spent` is of
    Column("spent", BigInteger, nullable=False, default=0),
)
_ROW = ALLOWANCES.c
_UNITS = bindparam("units", type_=BigInteger)
_BEFORE = case((_ROW.began < bindparam("start"), 0), else_=_ROW.spent)
RESERVE = (
    update(ALLOWANCES)
    .where(_ROW.key == bindparam("of"), _ROW.budget >= _BEFORE + _UNITS)
    .values(
        spent=_BEFORE + _UNITS,
        began=case((_ROW.began < bindparam("start"), bindparam("start")), else_=_ROW.began),
    )
)
GIVE_BACK = (
    update(ALLOWANCES)
    .where(_ROW.key == bindparam("of"), _ROW.began == bindparam("start"))
    .values(spent=_ROW.spent - _UNITS)
)


@dataclass(frozen=True)
class Spend:
    """A key's budget and what is spent of it, reservations included, since the period began (epoch seconds)."""

    key: str
    budget: float
    period: Period
    began: float
    spent: float


def period_start(period: Period, now: float) -> float:
    """Return when the day, month (UTC) or the one period of `total` began, in epoch seconds."""
    if period == "total":
        return 0.0
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day if period == "day" else day.replace(day=1)).timestamp()


def period_end(period: Period, now: float) -> float:
    """Return when the period ends, in epoch seconds; `total` never does."""
    if period == "total":
        return math.inf
    start = datetime.fromtimestamp(period_start(period, now), UTC)
    later = start + timedelta(days=1 if period == "day" else 31)
    return period_start(period, later.timestamp())


def set_budget(store: Store, key: str, amount: float | None, period: Period = "month") -> None:
    """Bound what a key may spend in a period, or no longer; what it has spent stays, if the period does.

    Raises:
        ServingError: for an amount that is no sum of money.
    """
    if amount is not None and not 0 <= amount < MOST:
        raise ServingError(f"A budget is between 0 and {MOST:,} of its currency, not {amount}.")
    budget = None if amount is None else round(amount * UNIT)
    _set(store, key, {"budget": budget, "period": period})


def set_limits(
    store: Store,
    key: str,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    concurrency: int | None = None,
) -> None:
    """Give a key limits of its own; None is the settings' value.

    Raises:
        ServingError: for a limit below 1.
    """
    own = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    own["concurrency"] = concurrency
    for name, limit in own.items():
        if limit is not None and limit < 1:
            raise ServingError(f"{name} is at least 1, not {limit}; revoke a key that may ask nothing.")
    _set(store, key, own)


def spend(store: Store, key: str | None = None) -> list[Spend]:
    """Return the budgets of all keys that have one, or of one."""
    query = select(ALLOWANCES).where(_ROW.budget.is_not(None)).order_by(_ROW.key)
    now = time.time()
    return [
        _spend(row, period_start(row["period"], now))
        for row in store.read_now(query if key is None else query.where(_ROW.key == key))
    ]


def _spend(row: Any, start: float) -> Spend:
    spent = row["spent"] if row["began"] >= start else 0
    return Spend(row["key"], row["budget"] / UNIT, row["period"], max(start, row["began"]), spent / UNIT)


def _set(store: Store, key: str, values: dict[str, Any]) -> None:
    def work(connection: Connection) -> None:
        row = connection.execute(select(ALLOWANCES).where(_ROW.key == key)).mappings().first()
        if row is None:
            connection.execute(ALLOWANCES.insert(), {"key": key, **values})
            return
        if values.get("period", row["period"]) != row["period"]:
            values.update(began=period_start(values["period"], time.time()), spent=0)
        connection.execute(update(ALLOWANCES).where(_ROW.key == key).values(values))

    store.do(work).result()


@dataclass(eq=False)
class _Ask:
    """A sum to reserve, if the budget has room for it, or to count less; in the period that began at `start`."""

    key: str
    start: float
    sum: int
    reserve: bool
    granted: Future[bool] = field(default_factory=Future)


class Purse:
    """Reserves and gives back; what comes while the database is busy is summed up by key for its next transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asks: deque[_Ask] = deque()
        self._called = False  # the store's thread will come for what is in `_asks`

    async def reserve(self, key: str, start: float, units: int, patience: float) -> bool:
        """Return whether the budget had room for it, once that is committed.

        Raises:
            TimeoutError: if the database does not say so in time; nothing stays reserved then.
            StoreFailed: if too many writes wait.
        """
        ask = _Ask(key, start, units, reserve=True)
        self._asks.append(ask)
        try:
            self._call()
        except StoreFailed:
            self._asks.remove(ask)
            raise
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(asyncio.wrap_future(ask.granted))
        except BaseException:
            ask.granted.add_done_callback(lambda done: self._undo(ask))
            raise

    def give_back(self, key: str, start: float, units: int) -> None:
        """Count less as spent, or more if negative, provided that the period is still the same."""
        self._asks.append(_Ask(key, start, units, reserve=False))
        with suppress(StoreFailed):  # then it waits for the next call
            self._call()

    def _undo(self, ask: _Ask) -> None:
        if ask.granted.exception() is None and ask.granted.result():
            self.give_back(ask.key, ask.start, ask.sum)

    def _call(self) -> None:
        if not self._called:
            taken: list[_Ask] = []
            done = self._store.do(lambda connection: self._work(connection, taken))
            self._called = True
            done.add_done_callback(lambda done: _tell(taken, done))

    def _work(self, connection: Connection, taken: list[_Ask]) -> set[_Ask]:
        """Take what waits and return whom it was granted; runs in the store's thread, again if a transaction failed."""
        self._called = False
        while self._asks:
            taken.append(self._asks.popleft())
        by_key: dict[tuple[str, float], list[_Ask]] = defaultdict(list)
        for ask in taken:
            by_key[ask.key, ask.start].append(ask)
        granted: set[_Ask] = set()
        for key, start in sorted(by_key):  # in one order, so that no two gateways wait for each other
            asks = by_key[key, start]
            if units := sum(ask.sum for ask in asks if not ask.reserve):
                connection.execute(GIVE_BACK, {"of": key, "start": start, "units": units})
            granted.update(_granted(connection, [ask for ask in asks if ask.reserve]))
        return granted


def _granted(connection: Connection, asks: list[_Ask]) -> list[_Ask]:
    """Return those of one key that its budget has room for: all at once if it can be, else the first to come."""

    def fits(some: list[_Ask]) -> bool:
        values = {"of": some[0].key, "start": some[0].start, "units": sum(ask.sum for ask in some)}
        return connection.execute(RESERVE, values).rowcount == 1

    if not asks or fits(asks):
        return asks
    return [ask for ask in asks if len(asks) > 1 and fits([ask])]


def _tell(taken: list[_Ask], done: Future[set[_Ask]]) -> None:
    fault = done.exception()
    for ask in taken:
        if fault:
            ask.granted.set_exception(fault)
        else:
            ask.granted.set_result(ask in done.result())
