"""API keys: hashed, expiring, rotated with grace, revoked within seconds, checked without the database."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from house import House, gateway
from prometheus_client import CollectorRegistry
from scene import wait_for
from sqlalchemy import delete, update
from starlette.datastructures import Headers

from forgeline.config.schema.serve import Access as Settings
from forgeline.errors import ServingError
from forgeline.ledger import Ledger
from forgeline.serving.gateway.access import failures, issuing, keys
from forgeline.serving.gateway.access.callers import Access
from forgeline.serving.gateway.access.failures import Failures
from forgeline.serving.gateway.access.keys import FORM, Keys
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import Store

Issue = Callable[..., tuple[str, str]]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


@pytest.fixture
def known(store: Store) -> Iterator[Keys]:
    """Keys that are read anew all the time."""
    following = Keys(store, refresh=0.01, stale=600)
    following.open()
    yield following
    following.close()


def code(known: Keys, text: str) -> str:
    """Return the reason for which a key is refused, or nothing."""
    try:
        known.caller(text)
    except ApiError as refusal:
        return str(refusal.code)
    return ""


def test_a_key_says_who_asks_and_its_secret_is_nowhere(
    known: Keys, issue: Issue, tmp_path: Path, ledger: Ledger
) -> None:
    id_, text = issue("caller", "reviewer", models=("a",))
    wait_for(lambda: not code(known, text))
    assert known.caller(text) == Caller(id_, "shop", frozenset({"caller", "reviewer"}), frozenset({"a"}))
    secret = text.split("_", 2)[2]
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert not any(secret.encode() in content for content in files)
    assert [(entry.action, entry.facts["key"]) for entry in ledger.verify()] == [("key created", id_)]


@pytest.mark.parametrize(
    "change",
    [
        lambda id_, secret: f"fl_{id_}_{'A' * 43}",
        lambda id_, secret: f"fl_{'0' * 12}_{secret}",
        lambda id_, secret: f"fl_{id_.upper()}_{secret}",
        lambda id_, secret: f"fl_{id_}_{secret}A",
        lambda id_, secret: f"fl_{id_}_{secret[:-1]}",
        lambda id_, secret: f"fl_{id_}_{secret}\n",
        lambda id_, secret: f"FL_{id_}_{secret}",
        lambda id_, secret: f"fl_{id_}_{'é' * 43}",
        lambda id_, secret: keys.hashed(secret),
        lambda id_, secret: f"fl_{id_}_{keys.hashed(secret)[:43]}",
        lambda id_, secret: "fl__",
        lambda id_, secret: "x" * 100_000,
    ],
)
def test_what_is_nearly_a_key_is_none(known: Keys, issue: Issue, change: Callable[[str, str], str]) -> None:
    id_, text = issue()
    wait_for(lambda: not code(known, text))
    assert code(known, change(id_, text.split("_", 2)[2])) == "invalid_api_key"


def test_keys_expire_and_say_so_to_their_owner_only(known: Keys, issue: Issue) -> None:
    id_, text = issue(days=-1)
    wait_for(lambda: code(known, text) == "expired_api_key")
    assert code(known, f"fl_{id_}_{'A' * 43}") == "invalid_api_key"


def test_revocation_reaches_a_running_gateway(known: Keys, issue: Issue, store: Store, ledger: Ledger) -> None:
    id_, text = issue()
    wait_for(lambda: not code(known, text))
    issuing.revoke(store, ledger, id_, "left the company")
    wait_for(lambda: code(known, text) == "revoked_api_key", seconds=3)
    with pytest.raises(ServingError, match="was revoked; create another"):
        issuing.rotate(store, ledger, id_, grace=0, days=1)
    with pytest.raises(ServingError, match="There is no key 000: `forgeline key list`"):
        issuing.revoke(store, ledger, "000", "")
    assert [entry.action for entry in ledger.verify()] == ["key created", "key revoked"]


def test_a_rotated_key_keeps_its_former_secret_for_its_grace(
    known: Keys, issue: Issue, store: Store, ledger: Ledger
) -> None:
    id_, first = issue()
    _, second = issuing.rotate(store, ledger, id_, grace=60, days=1)
    wait_for(lambda: not code(known, second))
    assert known.caller(first) == known.caller(second)
    _, third = issuing.rotate(store, ledger, id_, grace=0, days=1)
    wait_for(lambda: not code(known, third))
    assert code(known, second) == code(known, first) == "invalid_api_key"
    assert all(secret.split("_", 2)[2] not in ledger.path.read_text() for secret in (first, second, third))


def test_a_key_that_was_deleted_or_changed_by_a_clock_far_behind_is_refused(
    store: Store, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone, first), (late, second) = issue(), issue()
    monkeypatch.setattr(keys, "WHOLE_SECONDS", 0.05)
    following = Keys(store, refresh=0.01, stale=600)
    following.open()
    assert code(following, first) == code(following, second) == ""
    store.post(delete(keys.KEYS).where(keys.KEYS.c.id == gone)).result()
    store.post(update(keys.KEYS).where(keys.KEYS.c.id == late).values(revoked_at=1.0, changed_at=1.0)).result()
    wait_for(lambda: (code(following, first), code(following, second)) == ("invalid_api_key", "revoked_api_key"))
    following.close()


def test_a_role_that_there_is_not(store: Store, ledger: Ledger) -> None:
    with pytest.raises(ServingError, match="There is no role root: there are caller, reviewer"):
        issuing.create(store, ledger, "x", "shop", ["root"], [], 1)
    assert not ledger.path.exists()


def test_the_last_use_is_written_once_a_minute(
    known: Keys, issue: Issue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = issue()
    wait_for(lambda: not code(known, text))
    posted: list[Any] = []
    post = store.post
    monkeypatch.setattr(store, "post", lambda *given: posted.append(given) or post(*given))  # type: ignore[func-returns-value]
    for _ in range(100):
        known.caller(text)
    assert not posted  # the first use has been noted already
    used_at = wait_for(lambda: issuing.keys(store)[0].used_at)
    assert abs(used_at - time.time()) < 30


class Hanging:
    """A database that answers once, and then hangs until it is let go."""

    def __init__(self, store: Store) -> None:
        self.store, self.hangs, self.go = store, threading.Event(), threading.Event()
        self.reads = 0

    def read_now(self, statement: Any) -> Any:
        self.reads += 1
        if self.reads > 1:
            self.hangs.set()
            self.go.wait(30)
        return self.store.read_now(statement)

    def post(self, *given: Any) -> None:
        pass


def test_a_database_that_hangs_stops_no_known_key_until_they_are_stale(store: Store, issue: Issue) -> None:
    _, text = issue()
    database: Any = Hanging(store)
    known = Keys(database, refresh=0.01, stale=0.5)
    known.open()
    assert database.hangs.wait(10)
    began = time.perf_counter()
    assert not code(known, text)
    assert time.perf_counter() - began < 0.1
    wait_for(lambda: code(known, text) == "keys_unavailable", seconds=5)
    database.go.set()
    wait_for(lambda: not code(known, text), seconds=5)
    known.close()


def test_a_locked_sqlite_stops_neither_known_keys_nor_the_command(
    known: Keys, issue: Issue, store: Store, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, text = issue()
    wait_for(lambda: not code(known, text))
    monkeypatch.setattr(issuing, "WRITE_SECONDS", 0.1)
    with sqlite3.connect(tmp_path / "gateway.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ServingError, match="takes no writes now"):
            issuing.revoke(store, ledger, id_, "late")
        assert not code(known, text)
        other.execute("ROLLBACK")
    other.close()
    wait_for(lambda: code(known, text) == "revoked_api_key")  # what was queued is done


def test_a_check_costs_little_of_a_millisecond(known: Keys, issue: Issue) -> None:
    _, text = issue()
    wait_for(lambda: not code(known, text))
    began = time.process_time()
    for _ in range(2000):
        known.caller(text)
    assert (time.process_time() - began) / 2000 < 100e-6  # about 5 µs; the bound is for a busy machine


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with gateway(tmp_path_factory.mktemp("plain"), refresh=0.05) as served:
        yield served


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Basic dTpw", "fl_x", "Bearer a b", "bearer \xff"])
def test_strange_credentials_are_a_401(plain: House, given: str) -> None:
    answer = plain.ask("GET", "/v1/models", authorization=given)
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert json.loads(answer.text)["error"]["type"] == "invalid_request_error"


def test_two_credentials_are_none(store: Store, issue: Issue) -> None:
    _, text = issue("admin")
    access = Access(Settings(), store, CollectorRegistry())
    access.open()
    one = [(b"authorization", f"Bearer {text}".encode())]
    assert asyncio.run(access.caller(Headers(raw=one), "a")).tenant == "shop"
    with pytest.raises(ApiError) as refusal:
        asyncio.run(access.caller(Headers(raw=one * 2), "a"))
    assert refusal.value.code == "malformed_credentials"
    access.close()


def test_failures_are_counted_slowed_and_logged_without_the_key(
    plain: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "LONGEST_DELAY", 0.01)
    _, good = issuing.create(plain.store, plain.ledger, "x", "shop", ["caller"], [], 1)
    wait_for(lambda: plain.ask("GET", "/v1/models", good).status == 200)
    before, wrong = plain.refused("invalid_api_key"), f"fl_{'0' * 12}_{'A' * 43}"
    statuses = [plain.ask("GET", "/v1/models", wrong).status for _ in range(6)]
    assert statuses == [401] * 6
    assert plain.refused("invalid_api_key") == before + 6
    assert wrong not in caplog.text and "refused 127.0.0.1: invalid_api_key" in caplog.text
    monkeypatch.setattr(failures, "WAITING", 0)
    late = plain.ask("GET", "/v1/models", wrong)
    assert (late.status, late.code, late.headers["retry-after"]) == (429, "too_many_failures", "2")
    assert plain.ask("GET", "/v1/models", good).status == 200  # from the same address


def test_the_table_of_failures_is_bounded_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(failures.time, "monotonic", lambda: clock[0])
    counted = Failures()
    assert [counted.delay("a") for _ in range(12)] == [0, 0, 0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    clock[0] = 61
    assert counted.delay("a") == 0
    for number in range(failures.ADDRESSES + 500):
        counted.delay(f"10.0.{number // 256}.{number % 256}")
    assert len(counted) == failures.ADDRESSES
    assert [counted.delay(f"2001:db8::{number}") for number in range(6)][-1] > 0  # one subscriber's network


def test_the_form_of_a_key_is_what_scanners_look_for(issue: Issue) -> None:
    assert FORM.fullmatch(issue()[1])
