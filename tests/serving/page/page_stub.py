"""A gateway that answers as scripted, with the shapes of docs/review.md, docs/observability.md and OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from scene import free_port, wait_for
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware

from forgeline.config.schema.serve.access import Access
from forgeline.serving.gateway.access.headers import SecureHeaders
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.web import Page, router
from forgeline.serving.sockets import listen

ROLES = ("caller", "reviewer", "operator", "auditor", "admin")
NEEDS = {
    "/v1/reviews/tickets": "caller",
    "/v1/reviews": "reviewer",
    "/v1/status": "operator",
    "/v1/rollout": "operator",
    "/v1": "caller",
}
SYSTEM = "You write what a customer-service agent says. Use the act and the facts you are given."
HOTEL = {
    "value": "Hotel-Inform",
    "slots": ["name", "stars", "area", "parking"],
    "bare": ["parking"],
    "example": [["name", "the gonville hotel"], ["stars", "3"], ["area", "centre"], ["parking", ""]],
}
PAGE = Page.model_validate(
    {
        "title": "reply-writer",
        "objective": "Write what a customer-service agent says, given the dialogue act and the facts.",
        "human_review": "An agent reads every reply before it is sent.",
        "system": SYSTEM,
        "kind": "act",
        "forms": [HOTEL, {"value": "general-bye", "slots": [], "example": []}],
    }
)
REPLY = "The Gonville Hotel is a 3 star hotel. It has free parking. Shall I book a room for you?"
VERDICTS = [
    {"guard": "pii", "side": "in", "action": "mask", "detail": ""},
    {"guard": "ungrounded", "side": "out", "action": "flag", "detail": "1 value"},
    {"guard": "toxicity", "side": "out", "action": "pass", "detail": ""},
]
SAID = {"facts": ["hotel: the gonville hotel; stars 3; parking yes"], "verdicts": VERDICTS, "rung": "transformers"}


LIVE = {"version": "3", "engine": "transformers"}


@dataclass
class Stub:
    """What the next requests get, and what came; `go` lets a held stream go on."""

    answers: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    decided: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    reviews: list[dict[str, Any]] = field(default_factory=list)
    refusals: dict[str, ApiError] = field(default_factory=dict)
    tickets: dict[str, dict[str, Any]] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)
    anonymous: bool = False
    status_calls: int = 0
    rollout: dict[str, Any] = field(default_factory=lambda: {"live": LIVE, "rollout": None, "former": None})


def review(number: int, **differs: Any) -> dict[str, Any]:
    """Return an open review."""
    one = {
        "id": f"r{number}", "ticket": f"T-{number}", "interaction_id": f"i{number}", "at": time.time() - 60 * number,
        "age": 60.0 * number, "caller": "key-desk", "tenant": "shop", "version": "3", "model": "reply-writer",
        "why": "flagged", "risk": 2, "wait": True, "state": "open", "verdicts": VERDICTS,
        "messages": [{"role": "user", "content": "act: Hotel-Inform\nname: the gonville hotel\nstars: 3"}],
        "reply": f"The Gonville Hotel has {number} stars.", "claimed_by": None, "claimed_until": None,
        "decision": None, "decided_by": None, "decided_at": None, "reason": None, "final": None, "mine": False,
    }  # fmt: skip
    return {**one, **differs}


def status(calls: int) -> dict[str, Any]:
    """Return the status of a gateway with some traffic."""
    traffic = [int(20 + 14 * ((minute * 7 + calls) % 11) / 10 - minute % 5) for minute in range(60)]
    token = {"p50": 0.05, "p95": 0.11, "p99": 0.2}
    known = {"model": "reply-writer", "version": "3", "bundle": "9f2c41d07be81a55", "mlflow_run": "4b1e0c",
             "zenml_run": "run-2", "data_digest": "d1f6a0b3", "git_revision": "d45a379"}  # fmt: skip
    return {
        "at": time.time() + 5 * calls, "started_at": time.time() - 90_000, "draining": False, "deployment": known,
        "engines": [{"name": "transformers", "ready": True, "depth": 2, "failure": None},
                    {"name": "url", "ready": False, "depth": 0, "failure": "The endpoint cannot be reached."}],
        "traffic": {"in_flight": 3, "queue": 2, "per_minute": traffic,
                    "last_5": sum(traffic[-5:]), "last_60": sum(traffic)},
        "latency": {"last_5": {"requests": 42, "p50": 0.21 + 0.01 * (calls % 3), "p95": 0.55 + 0.03 * (calls % 5 == 4),
                               "p99": 0.9, "first_token": token},
                    "last_60": {"requests": 310, "p50": 0.2, "p95": 0.5, "p99": 0.8, "first_token": token}},
        "errors": {"rate_limited": 3, "timeout": 1}, "verdicts": {"toxicity:flag": 2, "pii:mask": 17},
        "rungs": {"transformers": 1300, "cache": 8, "template": 2}, "cache": {"hits": 8, "requests": 1310},
        "tokens": {"prompt": 12000, "completion": 9000},
        "spend": {"currency": "EUR", "by_key": [{"caller": "key-desk", "cost": 0.1234, "requests": 300}]},
        "reviews": {"open": 3, "claimed": 1, "decided": 9, "oldest": 812.0},
        "store": {"depth": 0, "behind": None, "spooled": 0},
    }  # fmt: skip


def rollout() -> dict[str, Any]:
    """Return a canary that goes on."""
    counts = {"live": [3, 410], "challenger": [1, 46], "e_value": 0.8}
    evidence = {"e_value": 0.9, "limit": 20.0, "measures": {"error": counts, "first": {**counts, "e_value": 1.2}}}
    on = {"id": "a1", "state": "running", "mode": "canary", "share": 0.1, "by": "key-operator", "why": None,
          "reason": "clearer replies", "challenger": {"version": "4", "engine": "transformers"},
          "answered": {"live": 410, "challenger": 46, "failed_over": 1}, "evidence": evidence}  # fmt: skip
    return {"live": LIVE, "rollout": on, "former": None}


def words(text: str) -> list[str]:
    """Return a text in pieces as a model gives them."""
    return [piece if place == 0 else f" {piece}" for place, piece in enumerate(text.split(" "))]


@contextmanager
def running() -> Iterator[tuple[str, Stub]]:
    """Serve the stub in a thread; yield its address and what is scripted."""
    stub = Stub()
    app = _app(stub)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(SecureHeaders(app, Access()), log_level="warning"))
    listener = listen("127.0.0.1", port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{port}", stub
    finally:
        stub.go.set()
        server.should_exit = True
        thread.join()


def _app(stub: Stub) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)

    async def access(http: Request, call_next: Any) -> Response:
        path, role = http.url.path, http.headers.get("authorization", "").removeprefix("Bearer ")
        if path.startswith(("/v1", "/page")):
            role = "caller" if stub.anonymous and not role else role
            if role not in ROLES:
                return _refused(ApiError(401, "No such key.", "invalid_api_key"))
            needed = next(needs for prefix, needs in {**NEEDS, "/page": role}.items() if path.startswith(prefix))
            if role not in (needed, "admin"):
                return _refused(ApiError(403, f"The role {needed} is needed.", "forbidden"))
            http.state.caller = Caller(f"key-{role}", "shop", frozenset({role}))  # type: ignore[arg-type]
        return await call_next(http)

    app.add_middleware(BaseHTTPMiddleware, dispatch=access)
    app.add_exception_handler(HTTPException, lambda http, fault: _refused(fault))  # type: ignore[arg-type]
    app.include_router(router(lambda: PAGE))
    _add_chat(app, stub)
    _add_people(app, stub)
    return app


def _refused(fault: HTTPException) -> JSONResponse:
    error = fault if isinstance(fault, ApiError) else ApiError(fault.status_code, fault.detail)
    return JSONResponse(error.body(), error.status_code, error.headers)


def _add_chat(app: FastAPI, stub: Stub) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "reply-writer"}, {"id": "reply-writer-formal"}]}

    @app.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> Response:
        stub.asked.append(body)
        answer = stub.answers.pop(0) if stub.answers else REPLY
        headers = {"x-request-id": f"i{len(stub.asked)}", "x-forgeline-version": "3"}
        if isinstance(answer, ApiError):
            raise answer
        if isinstance(answer, dict):  # a ticket
            return JSONResponse(answer, 202, headers)
        pieces = words(answer) if isinstance(answer, str) else answer
        return StreamingResponse(_stream(stub, pieces), media_type="text/event-stream", headers=headers)

    @app.post("/v1/feedback")
    async def feedback(body: dict[str, Any]) -> dict[str, Any]:
        if fault := stub.refusals.pop("feedback", None):
            raise fault
        stub.told.append(body)
        return {"id": "f1", **body}


async def _stream(stub: Stub, pieces: list[Any]) -> AsyncIterator[str]:
    """Yield events; an Event in the pieces is waited for, an ApiError ends the stream, None breaks it off."""
    for piece in pieces:
        if isinstance(piece, threading.Event):
            while not piece.is_set():
                await asyncio.sleep(0.01)
        elif isinstance(piece, ApiError):
            yield _event(piece.body())
            return
        elif piece is None:
            return
        else:
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield _event({"choices": [end], "forgeline": SAID})
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _add_people(app: FastAPI, stub: Stub) -> None:
    @app.get("/v1/reviews")
    async def queue(state: str = "open") -> dict[str, Any]:
        counts = {name: sum(one["state"] == name for one in stub.reviews) for name in ("open", "claimed", "decided")}
        return {"data": [one for one in stub.reviews if one["state"] == state], "next": None, "counts": counts}

    @app.get("/v1/reviews/tickets/{ticket}")
    async def ticket(ticket: str) -> dict[str, Any]:
        return {"ticket": ticket, **stub.tickets[ticket]}

    @app.get("/v1/reviews/{id}")
    async def one(id: str) -> dict[str, Any]:
        return next(each for each in stub.reviews if each["id"] == id)

    @app.post("/v1/reviews/{id}/{what}")
    async def decide(id: str, what: str, body: dict[str, Any], http: Request) -> dict[str, Any]:
        if fault := stub.refusals.pop(what, None):
            raise fault
        stub.decided.append((id, what, body))
        found = next(each for each in stub.reviews if each["id"] == id)
        who = http.state.caller.id
        if what == "claim":
            found.update(state="claimed", claimed_by=who, claimed_until=time.time() + 900)
        else:
            decision = {"approve": "approved", "edit": "edited", "reject": "rejected"}[what]
            found.update(state="decided", decision=decision, decided_by=who, decided_at=time.time())
            found.update(reason=body.get("reason"), final=body.get("text", found["reply"]))
        return found

    @app.get("/v1/rollout")
    async def tried() -> dict[str, Any]:
        return stub.rollout

    @app.post("/v1/rollout/{verb}")
    async def change(verb: str, body: dict[str, Any]) -> dict[str, Any]:
        stub.decided.append(("rollout", verb, body))
        if fault := stub.refusals.pop(verb, None):
            raise fault
        former = {**LIVE, "until": time.time() + 600}
        done = {"promote": "promoted", "abort": "aborted", "rollback": "rolled back"}[verb]
        stub.rollout = {
            "live": {**LIVE, "version": "4"} if verb == "promote" else LIVE,
            "rollout": {**stub.rollout["rollout"], "state": done},
            "former": former if verb == "promote" else None,
        }
        return stub.rollout

    @app.get("/v1/status")
    async def state() -> dict[str, Any]:
        stub.status_calls += 1
        return status(stub.status_calls)
