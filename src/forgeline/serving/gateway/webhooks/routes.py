"""How a tenant subscribes to events, and sees what became of their deliveries."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any, get_args
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping, delete, insert, select, update

from forgeline.serving.gateway.exchange import caller_of
from forgeline.serving.gateway.pages import Id
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.webhooks.deliveries import DELIVERIES, ROW, WEBHOOKS, Event, State, Webhooks
from forgeline.serving.gateway.webhooks.reach import Unreachable, addresses_of


class Subscription(BaseModel):
    """Where events of some kinds go."""

    model_config = ConfigDict(extra="forbid")
    url: Annotated[str, Field(min_length=1, max_length=2000)]
    events: Annotated[list[Event], Field(min_length=1, max_length=len(get_args(Event)))]


def router(webhooks: Webhooks) -> APIRouter:
    """Return the routes by which a tenant subscribes, and sees what became of deliveries."""
    import httpx2

    routes = APIRouter(prefix="/v1/webhooks")
    store, settings = webhooks.store, webhooks.settings

    async def check(subscription: Subscription) -> None:
        try:
            async with asyncio.timeout(settings.timeout):
                await addresses_of(httpx2.URL(subscription.url), settings.networks)
        except (Unreachable, httpx2.InvalidURL, TimeoutError) as fault:
            raise ApiError(400, str(fault) or "The host's name is not known.", "invalid_url", "url") from None

    async def owned(http: Request, id_: str) -> RowMapping:
        mine = select(WEBHOOKS).where(WEBHOOKS.c.id == id_, WEBHOOKS.c.tenant == caller_of(http).tenant)
        if rows := await store.read(mine):
            return rows[0]
        raise ApiError(404, f"There is no webhook {id_}.", "not_found", "id")

    @routes.post("", status_code=201)
    async def subscribe(body: Subscription, http: Request) -> dict[str, Any]:
        """The secret that signs the deliveries is told here only."""
        await check(body)
        tenant = caller_of(http).tenant
        mine = select(WEBHOOKS.c.id).where(WEBHOOKS.c.tenant == tenant)
        if len(await store.read(mine)) >= settings.max_subscriptions:
            raise ApiError(400, f"There are {settings.max_subscriptions} webhooks: delete one.", "too_many_webhooks")
        secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        row = {"id": f"wh_{uuid4().hex}", "tenant": tenant, "secret": secret, "at": time.time(), **body.model_dump()}
        await store.write(insert(WEBHOOKS), row)
        return {**_shown(row), "secret": secret}

    @routes.get("")
    async def subscriptions(http: Request) -> dict[str, Any]:
        mine = select(WEBHOOKS).where(WEBHOOKS.c.tenant == caller_of(http).tenant).order_by(WEBHOOKS.c.at)
        return {"object": "list", "data": [_shown(row) for row in await store.read(mine)]}

    @routes.get("/{id_}")
    async def subscription(id_: Id, http: Request) -> dict[str, Any]:
        return _shown(await owned(http, id_))

    @routes.put("/{id_}")
    async def change(id_: Id, body: Subscription, http: Request) -> dict[str, Any]:
        row = await owned(http, id_)
        await check(body)
        await store.write(update(WEBHOOKS).where(WEBHOOKS.c.id == id_).values(body.model_dump()))
        return _shown({**row, **body.model_dump()})

    @routes.delete("/{id_}")
    async def unsubscribe(id_: Id, http: Request) -> dict[str, Any]:
        await owned(http, id_)
        await store.write(delete(DELIVERIES).where(ROW.webhook == id_))
        await store.write(delete(WEBHOOKS).where(WEBHOOKS.c.id == id_))
        return {"id": id_, "object": "webhook.deleted", "deleted": True}

    @routes.get("/{id_}/deliveries")
    async def deliveries(id_: Id, http: Request, state: State | None = None) -> dict[str, Any]:
        """The latest hundred."""
        await owned(http, id_)
        query = select(DELIVERIES).where(ROW.webhook == id_).order_by(ROW.at.desc()).limit(100)
        rows = await store.read(query.where(ROW.state == state) if state else query)
        return {"object": "list", "data": [_delivery(row) for row in rows]}

    @routes.post("/{id_}/deliveries/{delivery}/retry", status_code=202)
    async def retry(id_: Id, delivery: Id, http: Request) -> dict[str, Any]:
        """Try a delivery that was given up anew."""
        await owned(http, id_)
        dead = update(DELIVERIES).where(ROW.id == delivery, ROW.webhook == id_, ROW.state == "dead")
        if not await store.write(dead.values(state="waiting", tries=0, next_at=time.time())):
            raise ApiError(404, f"There is no dead delivery {delivery}.", "not_found", "delivery")
        webhooks.wake()
        return {"id": delivery, "object": "webhook.delivery", "state": "waiting"}

    return routes


def _shown(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {**{key: row[key] for key in ("id", "url", "events")}, "object": "webhook", "created_at": int(row["at"])}


def _delivery(row: RowMapping) -> dict[str, Any]:
    told = {key: row[key] for key in ("id", "event", "state", "tries", "fault")}
    return {**told, "object": "webhook.delivery", "created_at": int(row["at"])}
