"""Long tables in pages, by a cursor that stays right while rows come in."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from pydantic import StringConstraints
from sqlalchemy import Column, ColumnElement, RowMapping, Table, and_, or_, select

from forgeline.serving.gateway.protocol import LARGEST, ApiError
from forgeline.serving.gateway.store import Store

Order = Sequence[tuple[Column[Any], bool]]  # a column, and whether the largest comes first
Limit = Annotated[int, Query(ge=1, le=200)]
After = Annotated[str | None, Query(max_length=400)]
Since = Annotated[float | None, Query(allow_inf_nan=False)]
Name = Annotated[str | None, Query(pattern=r"^[^\x00-\x1f]{1,200}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


async def page(
    store: Store, table: Table, where: Sequence[ColumnElement[bool]], order: Order, limit: int, after: str | None
) -> tuple[list[RowMapping], str | None]:
    """Return some rows and the cursor of the next page, None on the last.

    Raises:
        ApiError: 400 for a cursor that is none.
        StoreFailed: if the database cannot be asked.
    """
    query = select(table).where(*where).limit(limit + 1)
    query = query.order_by(*(column.desc() if largest else column.asc() for column, largest in order))
    if after is not None:
        query = query.where(_beyond(order, _values(order, after)))
    rows = await store.read(query)
    if len(rows) <= limit:
        return rows, None
    last = [rows[limit - 1][column.name] for column, _ in order]
    return rows[:limit], base64.urlsafe_b64encode(json.dumps(last).encode()).decode()


def newest_first(table: Table) -> Order:
    """Return the order of a log."""
    return ((table.c.at, True), (table.c.key, True))


def _beyond(order: Order, values: list[Any]) -> ColumnElement[bool]:
    def step(place: int) -> ColumnElement[bool]:
        column, largest = order[place]
        same = [column == value for (column, _), value in zip(order[:place], values, strict=False)]
        return and_(*same, column < values[place] if largest else column > values[place])

    return or_(*(step(place) for place in range(len(order))))


def _values(order: Order, after: str) -> list[Any]:
    try:
        values = json.loads(base64.urlsafe_b64decode(after))
        typed = [column.type.python_type(value) for (column, _), value in zip(order, values, strict=True)]
        if any((isinstance(value, int) and abs(value) > LARGEST) or "\0" in str(value) for value in typed):
            raise ValueError(after)
    except (ValueError, TypeError, OverflowError):
        raise ApiError(400, "after: not a cursor; give `next` of the page before.", "invalid_value", "after") from None
    return typed
