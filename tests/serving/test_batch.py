from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from openai import OpenAI
from openai.types import Batch
from prometheus_client import CollectorRegistry
from scene import wait_for
from sqlalchemy import select, update

from forgeline.config.schema.serve.people import Batch as Settings
from forgeline.config.schema.serve.people import Webhooks as WebhookSettings
from forgeline.serving.gateway.batch import Batches, router
from forgeline.serving.gateway.batch.tables import BATCHES
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError, answer_errors
from forgeline.serving.gateway.store import Store
from forgeline.serving.gateway.webhooks import Webhooks
from forgeline.serving.gateway.webhooks.deliveries import DELIVERIES, WEBHOOKS

Reply = tuple[int, dict[str, Any]]


class Model:
    """What answers the lines: echoes, holds what says `hold`, turns away, refuses or breaks as it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.callers: set[Caller] = set()
        self.free = threading.Event()
        self.running = self.most = 0
        self.turned_away = 0

    async def answer(self, body: dict[str, Any], caller: Caller) -> Reply:
        text = body["messages"][0]["content"]
        self.asked.append(text)
        self.callers.add(caller)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while text.startswith("hold") and not self.free.is_set():
                await asyncio.sleep(0.005)
            if text == "busy" and self.turned_away < 1:
                self.turned_away += 1
                return 429, ApiError(429, "Later.", "queue_full").body()
            if text == "refuse":
                raise ApiError(400, "No.", "content_policy")
            if text == "spent":
                return 429, ApiError(429, "Spent.", "insufficient_quota").body()
            if text == "break":
                raise RuntimeError("broken")
            return 200, {"object": "chat.completion", "choices": [{"message": {"content": f"You said {text}"}}]}
        finally:
            self.running -= 1


@contextmanager
def gateway(path: Path, model: Model, **settings: Any) -> Iterator[TestClient]:
    store = Store(f"sqlite:///{path / 'gateway.db'}")
    store.open()
    app, registry = FastAPI(), CollectorRegistry()
    answer_errors(app)
    webhooks = Webhooks(WebhookSettings(), store, registry)
    batches = Batches(Settings.model_validate({"lease": 1, **settings}), store, model.answer, webhooks, registry)

    @app.middleware("http")
    async def known(http: Request, answered: Callable[[Request], Awaitable[Response]]) -> Response:
        tenant = http.headers.get("x-tenant", "shop")
        http.state.caller = Caller(f"key-of-{tenant}", tenant, frozenset({"caller"}))
        return await answered(http)

    app.include_router(router(batches))
    app.router.add_event_handler("startup", webhooks.start)
    app.router.add_event_handler("startup", batches.start)
    app.router.add_event_handler("shutdown", batches.close)
    app.router.add_event_handler("shutdown", webhooks.close)
    app.state.store = store
    with TestClient(app) as client:
        yield client
    model.free.set()
    store.close()


@pytest.fixture
def model() -> Model:
    return Model()


def line(id_: str, text: str = "hello", **change: Any) -> str:
    body = {"model": "reply-writer", "messages": [{"role": "user", "content": text}]}
    return json.dumps({"custom_id": id_, "method": "POST", "url": "/v1/chat/completions", "body": body} | change)


def upload(client: TestClient, content: str | bytes, **headers: str) -> Any:
    return client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)}, headers=headers)


def begin(client: TestClient, *texts: str, **headers: str) -> str:
    """Upload lines and start a batch of them; return its id."""
    file = upload(client, "\n".join(line(f"n{n}", text) for n, text in enumerate(texts)), **headers).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    id_: str = client.post("/v1/batches", json=body, headers=headers).json()["id"]
    return id_


def ended(client: TestClient, id_: str, **headers: str) -> Batch:
    def batch() -> Batch | None:
        seen = Batch.model_validate(client.get(f"/v1/batches/{id_}", headers=headers).json())
        return seen if seen.status in ("completed", "cancelled", "expired", "failed") else None

    found: Batch = wait_for(batch, 20)
    return found


def records(client: TestClient, file: str | None) -> list[dict[str, Any]]:
    return [json.loads(text) for text in client.get(f"/v1/files/{file}/content").text.splitlines()] if file else []


def test_the_official_client_sends_a_file_and_gets_one_back(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model) as client:
        store: Store = client.app.state.store  # type: ignore[attr-defined]
        hook = {"id": "wh", "tenant": "shop", "url": "https://8.8.8.8", "events": ["batch.finished"]}
        store.post(WEBHOOKS.insert(), {**hook, "secret": "whsec_AAAA", "at": 0.0}).result()
        openai = OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)  # type: ignore[arg-type]
        texts = ["one", "busy", "refuse", "break", "spent", "ünï"]
        content = "\n\n".join(line(f"n{n}", text) for n, text in enumerate(texts)).encode() + b"\n"
        file = openai.files.create(file=("in.jsonl", content), purpose="batch")
        assert (file.bytes, file.filename, file.status) == (len(content), "in.jsonl", "processed")
        batch = openai.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "test"}
        )
        assert batch.request_counts is not None and batch.request_counts.total == 6
        done = ended(client, batch.id)
        assert done.status == "completed" and done.completed_at and done.metadata == {"for": "test"}
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (3, 3)
        assert done.output_file_id and done.error_file_id
        good = [json.loads(text) for text in openai.files.content(done.output_file_id).text.splitlines()]
        assert [record["custom_id"] for record in good] == ["n0", "n1", "n5"]
        assert good[2]["response"]["body"]["choices"][0]["message"]["content"] == "You said ünï"
        bad = {record["custom_id"]: record["response"] for record in records(client, done.error_file_id)}
        assert {id_: response["status_code"] for id_, response in bad.items()} == {"n2": 400, "n3": 500, "n4": 429}
        assert bad["n2"]["body"]["error"]["code"] == "content_policy" and "broken" not in str(bad)
        assert model.callers == {Caller("key-of-shop", "shop", frozenset({"caller"}))}
        (event,) = store.read_now(select(DELIVERIES))
        assert (event["event"], json.loads(event["body"])["data"]["id"]) == ("batch.finished", batch.id)
        assert [listed.id for listed in openai.batches.list()] == [batch.id]
        assert openai.files.delete(file.id).deleted
        assert {listed.filename for listed in openai.files.list()} == {
            f"{batch.id}_output.jsonl",
            f"{batch.id}_error.jsonl",
        }


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ("", 400, "no requests in it"),
        (b"\xff\xfe", 400, "line 1: not JSON"),
        ("[" * 1_900, 400, "line 1: not JSON"),
        (line("a") + "\n{\n" + line("b") + "\nnull", 400, "line 2: not JSON"),
        (line("a") + "\n" + line("b") + "\n" + line("a"), 400, "line 3: the custom_id 'a' is that of line 1 too"),
        (line("a", url="/v1/embeddings"), 400, "line 1: url: Input should be '/v1/chat/completions'"),
        (line("a", method="GET"), 400, "line 1: method: Input should be 'POST'"),
        (line(""), 400, "line 1: custom_id"),
        (line("a", body=[]), 400, "line 1: body"),
        (line("a", body={"stream": True}), 400, "line 1: body.stream: a batch does not stream"),
        (line("a", extra=1), 400, "line 1: extra"),
        (line("a", "x" * 5_000), 400, "line 1: longer than 2000 bytes"),
        ("\n".join(line(f"n{n}") for n in range(21)), 400, "more than 20 lines"),
        (line("a", "x" * 10_000_000), 413, "larger than 6000 bytes"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_with_its_line(
    bounded: TestClient, content: str | bytes, status: int, message: str
) -> None:
    answer = upload(bounded, content)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text[:500]
    assert bounded.get("/v1/files").json()["data"] == []


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with gateway(tmp_path_factory.mktemp("bounded"), Model(), max_line=2000, max_lines=20, max_file=6000) as client:
        yield client


def test_a_tenant_sees_its_own_only_and_bad_asks_are_refused(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model, max_active=1, max_stored=700) as client:
        other = {"x-tenant": "other"}
        batch = begin(client, "hold")
        file = client.get("/v1/files").json()["data"][0]["id"]
        new = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for method, path in (
            ("GET", f"/v1/batches/{batch}"),
            ("POST", f"/v1/batches/{batch}/cancel"),
            ("GET", f"/v1/files/{file}"),
            ("GET", f"/v1/files/{file}/content"),
            ("DELETE", f"/v1/files/{file}"),
            ("GET", "/v1/files/..%2f..%2fetc"),
        ):
            assert client.request(method, path, headers=other).status_code == 404
        assert client.post("/v1/batches", json=new, headers=other).status_code == 404
        assert client.get("/v1/batches", headers=other).json()["data"] == []
        assert client.post("/v1/batches", json=new).json()["error"]["code"] == "too_many_batches"
        assert client.delete(f"/v1/files/{file}").json()["error"]["code"] == "file_in_use"
        for change in ({"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}, {"input_file_id": None}):
            assert client.post("/v1/batches", json=new | change).status_code == 400
        assert client.post("/v1/batches", json=new | {"input_file_id": "file-none"}).status_code == 404
        for path in ("/v1/files/%00", "/v1/batches/%ff", "/v1/batches?after=%00"):
            assert client.get(path).json()["error"]["code"] == "invalid_value"
        assert client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": b"x"}).status_code == 400
        assert client.post("/v1/files", data={"purpose": "batch"}).status_code == 400
        assert upload(client, line("a", "x" * 600)).json()["error"]["code"] == "too_many_files"
        model.free.set()
        assert ended(client, batch).status == "completed"
        assert client.post(f"/v1/batches/{batch}/cancel").json()["error"]["code"] == "not_cancellable"


def test_a_cancelled_batch_keeps_what_came_until_then(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model, concurrency=1) as client:
        running, waiting = begin(client, "one", "hold", "never"), begin(client, "never")
        wait_for(lambda: "hold" in model.asked, 10)
        seen = client.get(f"/v1/batches/{running}").json()
        assert (seen["status"], seen["request_counts"]) == ("in_progress", {"total": 3, "completed": 1, "failed": 0})
        assert client.post(f"/v1/batches/{waiting}/cancel").json()["status"] == "cancelled"
        assert client.post(f"/v1/batches/{running}/cancel").json()["status"] == "cancelling"
        model.free.set()
        done = ended(client, running)
        assert done.status == "cancelled"
        assert [record["custom_id"] for record in records(client, done.output_file_id)] == ["n0", "n1"]
        assert "never" not in model.asked


def test_a_batch_whose_time_is_over_says_which_lines_were_not_answered(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model, concurrency=1) as client:
        store: Store = client.app.state.store  # type: ignore[attr-defined]
        first = begin(client, "hold")
        wait_for(lambda: model.asked, 10)
        second = begin(client, "late", "later")  # waits for the tenant's first one
        store.post(update(BATCHES).where(BATCHES.c.id == second).values(expires_at=1.0)).result()
        model.free.set()
        ended(client, first)
        done = ended(client, second)
        assert (done.status, model.asked) == ("expired", ["hold"])
        errors = records(client, done.error_file_id)
        assert [(record["custom_id"], record["error"]["code"]) for record in errors] == [
            ("n0", "batch_expired"),
            ("n1", "batch_expired"),
        ]


def test_so_many_lines_at_once_and_tenants_beside_each_other(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model, concurrency=3) as client:
        many = begin(client, *(f"a{n}" for n in range(30)), *["hold"] * 3)
        wait_for(lambda: model.running == 3, 10)
        few = begin(client, "b", **{"x-tenant": "other"})
        model.free.set()
        assert ended(client, few, **{"x-tenant": "other"}).status == "completed"
        assert ended(client, many).status == "completed"
        assert model.most == 3


def test_a_batch_goes_on_at_the_first_unanswered_line_after_a_restart(tmp_path: Path, model: Model) -> None:
    with gateway(tmp_path, model, concurrency=1, lease=1000) as client:
        batch = begin(client, "one", "two", "hold", "four")
        wait_for(lambda: "hold" in model.asked, 10)
    later = Model()
    later.free.set()
    with gateway(tmp_path, later, concurrency=1) as client:
        done = ended(client, batch)
        assert [record["custom_id"] for record in records(client, done.output_file_id)] == ["n0", "n1", "n2", "n3"]
    assert later.asked == ["hold", "four"]


def test_another_gateway_goes_on_with_the_batch_of_one_that_was_killed(tmp_path: Path, model: Model) -> None:
    script = f"""
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from test_batch import Model, begin, gateway, wait_for
    model = Model()
    with gateway(Path({str(tmp_path)!r}), model, concurrency=1) as client:
        print(begin(client, "one", "hold", "three"), flush=True)
        wait_for(lambda: "hold" in model.asked, 10)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    model.free.set()
    with gateway(tmp_path, model, concurrency=1) as client:
        done = ended(client, killed.stdout.strip())
        assert [record["custom_id"] for record in records(client, done.output_file_id)] == ["n0", "n1", "n2"]
    assert model.asked == ["hold", "three"]
