"""What the gateway's own schema says is so, whatever is sent; and nobody passes without a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from house import ROLES, make_app
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scene import HELLO
from schemathesis import APIOperation, Case, Config, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NOT_SET
from schemathesis.python.asgi import HOST
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from forgeline.config.schema import Serve
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import issuing

SECONDS = 10.0  # for one answer
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
PUBLIC = {"GET /healthz", "GET /readyz"}
# What a body and an id cannot bring about: a delivery that was given up, a batch that is still being answered, and
# another version beside a gateway that was not started from an order.
MAY_FAIL = {
    *("POST /v1/webhooks/{id_}/deliveries/{delivery}/retry", "POST /v1/batches/{id_}/cancel", "POST /v1/rollout"),
    *(f"POST /v1/rollout/{verb}" for verb in ("promote", "abort", "share", "rollback")),
}
QUESTION = {"model": "reply-writer", "messages": HELLO}
LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": QUESTION}
WEBHOOK = {"url": "http://127.0.0.1:9/", "events": ["batch.finished"]}
WITHOUT_KEYS = Config.from_dict({"generation": {"with-security-parameters": False}})
QUICK = settings(
    deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@dataclass
class Crowd:
    """The gateway as it is asked from another address each time, so that no failure slows the next."""

    app: ASGIApp
    numbers: Iterator[int] = field(default_factory=count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = (f"client-{next(self.numbers)}", 1)
        await self.app(scope, receive, send)


@dataclass
class Gateway:
    """The operations of its schema, a key for each role, and what there is in it."""

    operations: dict[str, APIOperation]
    keys: dict[str, str]
    there: dict[str, Any] = field(default_factory=dict)

    def ask(
        self, label: str, role: str, body: Any = NOT_SET, media_type: str = "application/json", **query: str
    ) -> Any:
        """Return what an operation answers, which must be well."""
        media = None if body is NOT_SET else media_type
        case = self.operations[label].Case(body=body, media_type=media, query=query)
        answer = case.call(headers=bearer(self.keys[role]), timeout=SECONDS)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def furnish(self) -> None:
        """Subscribe, upload and begin a batch."""
        upload = {"file": json.dumps(LINE).encode(), "purpose": "batch"}
        file = self.ask("POST /v1/files", "caller", upload, "multipart/form-data")["id"]
        batch = {"input_file_id": file, "endpoint": LINE["url"], "completion_window": "24h"}
        self.there["webhooks"] = self.ask("POST /v1/webhooks", "operator", WEBHOOK)["id"]
        self.there["batches"] = self.ask("POST /v1/batches", "caller", batch)["id"]
        self.there["files"] = file
        self.there["body"] = {**upload, "input_file_id": file, "url": WEBHOOK["url"], "model": QUESTION["model"]}

    def ask_the_model(self) -> None:
        """Have a reply in the log and in the review queue, which nobody decided yet."""
        answered = self.ask("POST /v1/chat/completions", "caller", QUESTION)
        self.there["interactions"] = answered["id"].removeprefix("chatcmpl-")
        self.there["tickets"] = answered["forgeline"]["ticket"]
        self.there["reviews"] = next(each["id"] for each in self.queue() if each["ticket"] == self.there["tickets"])
        self.there["body"]["interaction_id"] = self.there["interactions"]

    def queue(self) -> Iterator[dict[str, Any]]:
        """Yield all reviews that nobody decided yet."""
        page = self.ask("GET /v1/reviews", "reviewer")
        yield from page["data"]
        while page["next"]:
            page = self.ask("GET /v1/reviews", "reviewer", after=page["next"])
            yield from page["data"]

    def named(self, case: Case) -> Case:
        """Return a request that names what there is in place of what is made up."""
        for before, part in pairwise(case.operation.path.split("/")):
            if part.startswith("{") and before in self.there:
                case.path_parameters[part.strip("{}")] = self.there[before]
        if isinstance(case.body, dict):
            case.body.update({name: value for name, value in self.there["body"].items() if name in case.body})
        return case


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """A gateway in this process, on a real database in which there is something of every kind."""
    address = f"sqlite:///{tmp_path}/gateway.db"
    with issuing.opened(address) as store:
        ledger = Ledger(tmp_path / "ledger.jsonl")
        keys = {role: issuing.create(store, ledger, role, "shop", [role], [], 1)[1] for role in ROLES}
    people = {"review": {"when": "always"}, "webhooks": {"timeout": 0.2, "networks": ["127.0.0.0/8"]}}
    serve = Serve.model_validate({"store": address, "people": people, "access": {"hosts": [HOST]}})
    app, asked_with = Crowd(make_app(serve)), bearer(keys["auditor"])
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=asked_with, config=WITHOUT_KEYS)
    operations = [each.ok() for each in schema.get_all_operations()]
    served = Gateway({operation.label: operation for operation in operations}, keys)
    served.furnish()
    return served  # schemathesis stops it at the end of the test


def test_it_answers_as_its_schema_says_and_never_breaks(gateway: Gateway) -> None:
    done: set[str] = set()
    for operation in sorted(gateway.operations.values(), key=lambda each: each.method == "delete"):
        gateway.ask_the_model()
        valid, invalid = operation.as_strategy(), operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @settings(QUICK, max_examples=20)
        @given(valid.map(gateway.named) | valid | invalid)
        def is_answered(case: Case) -> None:
            answer = case.call(headers=bearer(gateway.keys["admin"]), timeout=SECONDS)
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code < 300:
                done.add(case.operation.label)

        is_answered()
    assert set(gateway.operations) - done <= MAY_FAIL


def test_a_number_that_no_database_holds_is_refused(gateway: Gateway) -> None:
    operation = gateway.operations["POST /v1/chat/completions"]
    for name in ("max_tokens", "max_completion_tokens", "seed", "n", "top_logprobs"):
        case = operation.Case(body={**QUESTION, name: 10**30}, media_type="application/json")
        answer = case.call(headers=bearer(gateway.keys["admin"]), timeout=SECONDS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), name


def test_nobody_passes_with_a_key_that_is_made_up(gateway: Gateway) -> None:
    key = gateway.keys["admin"]
    nearly = [key[:-1], f"{key}x", key.upper(), f"{key} {key}", key.rpartition("_")[0], key.partition("_")[2]]
    visible = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
    credentials = st.sampled_from(nearly) | visible | visible.map("fl_{}".format)
    headers = st.tuples(st.sampled_from(["Bearer", "bearer"]), credentials).map(" ".join)
    headers |= st.sampled_from([f"Basic {key}", f"Bearer{key}", key, f"Bearer\t{key}"]) | visible
    for operation in gateway.operations.values():

        @settings(QUICK, max_examples=8)
        @given(operation.as_strategy(), headers)
        def is_refused(case: Case, header: str) -> None:
            for sent in ({}, {"Authorization": header}):
                answer = case.call(headers=sent, timeout=SECONDS)
                if case.operation.label in PUBLIC and not sent:
                    assert answer.status_code == 200
                else:
                    assert answer.status_code == 401, (case.operation.label, sent)
                    assert answer.headers["www-authenticate"][0].startswith("Bearer")
                    case.validate_response(answer, checks=CHECKS[:-1])

        is_refused()
