"""Files and batches as OpenAI's clients ask for them; a tenant sees its own only."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping, delete, func, insert, select, update

from forgeline.serving.gateway.batch.lines import read_lines
from forgeline.serving.gateway.batch.run import Batches
from forgeline.serving.gateway.batch.tables import (
    ANSWERS,
    BATCHES,
    FILES,
    UNFINISHED,
    batch_object,
    file_object,
)
from forgeline.serving.gateway.exchange import caller_of
from forgeline.serving.gateway.pages import Id
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.schema import told_as

SHOWN = [column for column in FILES.c if column.name != "content"]
WINDOW = 86400.0
Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class NewBatch(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid")
    input_file_id: Id
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None


def router(batches: Batches) -> APIRouter:
    """Return the routes of files and batches."""
    routes = APIRouter()
    _add_files(routes, batches)
    _add_batches(routes, batches)
    return routes


def _add_files(routes: APIRouter, batches: Batches) -> None:
    store, settings = batches.store, batches.settings

    async def owned(http: Request, id_: str, *columns: Any) -> RowMapping:
        query = select(*SHOWN, *columns).where(FILES.c.id == id_, FILES.c.tenant == caller_of(http).tenant)
        if rows := await store.read(query):
            return rows[0]
        raise ApiError(404, f"There is no file {id_}.", "not_found", "id")

    @routes.post("/v1/files")
    async def upload(file: UploadFile, purpose: Annotated[Literal["batch"], Form()], http: Request) -> dict[str, Any]:
        if (file.size or 0) > settings.max_file:
            raise ApiError(413, f"The file is larger than {settings.max_file} bytes.", "file_too_large", "file")
        tenant = caller_of(http).tenant
        stored = select(func.coalesce(func.sum(FILES.c.size), 0).label("bytes")).where(FILES.c.tenant == tenant)
        if (await store.read(stored))[0]["bytes"] + (file.size or 0) > settings.max_stored:
            message = f"Your files would be more than {settings.max_stored} bytes: delete some."
            raise ApiError(400, message, "too_many_files", "file")
        content = await file.read()
        lines = await asyncio.to_thread(read_lines, content, settings)
        row: dict[str, Any] = {
            "id": f"file-{uuid4().hex}",
            "tenant": tenant,
            "name": (file.filename or "batch.jsonl")[:200],
        }
        row |= {"purpose": purpose, "size": len(content), "lines": len(lines), "at": time.time()}
        await store.write(insert(FILES), {**row, "content": content})
        return file_object(row)

    @routes.get("/v1/files")
    async def files(http: Request) -> dict[str, Any]:
        query = select(*SHOWN).where(FILES.c.tenant == caller_of(http).tenant).order_by(FILES.c.at.desc())
        return {"object": "list", "data": [file_object(row) for row in await store.read(query)], "has_more": False}

    @routes.get("/v1/files/{id_}")
    async def file_(id_: Id, http: Request) -> dict[str, Any]:
        return file_object(await owned(http, id_))

    @routes.get("/v1/files/{id_}/content", response_class=Response, responses=told_as("application/jsonl"))
    async def content(id_: Id, http: Request) -> Response:
        return Response((await owned(http, id_, FILES.c.content))["content"], media_type="application/jsonl")

    @routes.delete("/v1/files/{id_}")
    async def remove(id_: Id, http: Request) -> dict[str, Any]:
        await owned(http, id_)
        if await store.read(select(BATCHES.c.id).where(BATCHES.c.input == id_, BATCHES.c.status.in_(UNFINISHED))):
            raise ApiError(409, "An unfinished batch reads this file: cancel it first.", "file_in_use", "id")
        await store.write(delete(FILES).where(FILES.c.id == id_))
        return {"id": id_, "object": "file", "deleted": True}


def _add_batches(routes: APIRouter, batches: Batches) -> None:
    store, settings = batches.store, batches.settings

    async def owned(http: Request, id_: str) -> RowMapping:
        rows = await store.read(select(BATCHES).where(BATCHES.c.id == id_, BATCHES.c.tenant == caller_of(http).tenant))
        if rows:
            return rows[0]
        raise ApiError(404, f"There is no batch {id_}.", "not_found", "id")

    async def shown(rows: list[RowMapping]) -> list[dict[str, Any]]:
        """Count what is answered so far, and show."""
        ids = [row["id"] for row in rows if row["completed"] is None]
        groups = select(ANSWERS.c.batch, ANSWERS.c.ok, func.count().label("n")).where(ANSWERS.c.batch.in_(ids))
        counts = {(row["batch"], row["ok"]): row["n"] for row in await store.read(groups.group_by("batch", "ok"))}
        return [
            batch_object(
                row,
                row["completed"] if row["completed"] is not None else counts.get((row["id"], True), 0),
                row["failed"] if row["failed"] is not None else counts.get((row["id"], False), 0),
            )
            for row in rows
        ]

    @routes.post("/v1/batches")
    async def create(body: NewBatch, http: Request) -> dict[str, Any]:
        caller, now = caller_of(http), time.time()
        mine = FILES.c.id == body.input_file_id, FILES.c.tenant == caller.tenant, FILES.c.purpose == "batch"
        files = await store.read(select(*SHOWN).where(*mine))
        if not files:
            message = f"There is no file {body.input_file_id} that was uploaded for a batch."
            raise ApiError(404, message, "not_found", "input_file_id")
        active = select(BATCHES.c.id).where(BATCHES.c.tenant == caller.tenant, BATCHES.c.status.in_(UNFINISHED))
        if len(await store.read(active)) >= settings.max_active:
            message = f"{settings.max_active} batches are unfinished: wait for one, or cancel one."
            raise ApiError(429, message, "too_many_batches")
        row: dict[str, Any] = {"id": f"batch_{uuid4().hex}", "tenant": caller.tenant, "caller": caller.id}
        row |= {
            "at": now,
            "lease": 0.0,
            "roles": sorted(caller.roles),
            "input": body.input_file_id,
            "status": "validating",
        }
        row |= {"total": files[0]["lines"], "expires_at": now + WINDOW, "metadata": body.metadata}
        await store.write(insert(BATCHES), row)
        batches.wake()
        return (await shown([await owned(http, row["id"])]))[0]

    @routes.get("/v1/batches")
    async def listed(
        http: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: Id | None = None
    ) -> dict[str, Any]:
        """The latest first; `after` is the last one of the page before."""
        query = select(BATCHES).where(BATCHES.c.tenant == caller_of(http).tenant).order_by(BATCHES.c.at.desc())
        if after:
            query = query.where(BATCHES.c.at < (await owned(http, after))["at"])
        rows = await store.read(query.limit(limit + 1))
        page = await shown(rows[:limit])
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"object": "list", "data": page, **ends, "has_more": len(rows) > limit}

    @routes.get("/v1/batches/{id_}")
    async def one(id_: Id, http: Request) -> dict[str, Any]:
        return (await shown([await owned(http, id_)]))[0]

    @routes.post("/v1/batches/{id_}/cancel")
    async def cancel(id_: Id, http: Request) -> dict[str, Any]:
        """What is being answered is still answered; the files hold what came until then."""
        await owned(http, id_)
        now, mine = time.time(), update(BATCHES).where(BATCHES.c.id == id_)
        waits, runs = mine.where(BATCHES.c.status == "validating"), mine.where(BATCHES.c.status == "in_progress")
        ended = {"status": "cancelled", "cancelling_at": now, "ended_at": now, "completed": 0, "failed": 0}
        if await store.write(waits.values(ended)):
            batch = (await shown([await owned(http, id_)]))[0]
            batches.webhooks.send("batch.finished", batch, caller_of(http).tenant)
            return batch
        if not await store.write(runs.values(status="cancelling", cancelling_at=now)):
            raise ApiError(409, "The batch is over, or being cancelled.", "not_cancellable", "id")
        batches.wake()
        return (await shown([await owned(http, id_)]))[0]
