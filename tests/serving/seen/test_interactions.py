from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from postgres import running
from rooms import Rooms, exchange, opened
from scene import LINEAGE, wait_for
from sqlalchemy import update

from forgeline.serving.gateway import retention
from forgeline.serving.gateway.feedback import export
from forgeline.serving.gateway.interactions import INTERACTIONS, is_sampled, latest
from forgeline.serving.gateway.protocol import ApiError
from forgeline.serving.gateway.store import StoreFailed


def ids(rooms: Rooms, query: str = "") -> list[str]:
    code, page = rooms.call("GET", f"/v1/interactions?{query}")
    assert code == 200, page
    return [row["id"] for row in page["data"]]


def test_a_row_names_who_asked_what_answered_and_what_it_cost(rooms: Rooms) -> None:
    rooms.recorded(exchange("one", "toxicity:flag", "pii:pass"))
    code, row = rooms.call("GET", "/v1/interactions/one")
    assert code == 200
    assert (row["caller"], row["tenant"], row["model"]) == ("anna", "shop", LINEAGE["model"])
    assert (row["version"], row["run"], row["bundle"]) == (LINEAGE["version"], LINEAGE["mlflow_run"], "b" * 64)
    assert (row["rung"], row["engine"], row["status"], row["error"]) == ("transformers", "transformers", 200, None)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (42, 12, 0.25)
    assert row["messages"] == [{"role": "user", "content": "When do you open?"}]
    assert row["reply"] == "We open on Sunday." and row["first_token"] == 0.05
    assert [(found["guard"], found["action"]) for found in row["verdicts"]] == [("toxicity", "flag"), ("pii", "pass")]
    assert time.time() - 60 < row["at"] < time.time() and set(row) & {"key", "marks"} == set()
    assert rooms.call("GET", "/v1/interactions/none")[0] == 404


def test_pages_and_filters_find_each_row_once(rooms: Rooms) -> None:
    for number in range(5):
        rooms.recorded(exchange(f"row-{number}", *(["a_b:block"] if number == 3 else ["axb:mask"])))
    rooms.recorded(exchange("other", caller="ben/bank"), 503, "unavailable")
    first = rooms.call("GET", "/v1/interactions?limit=4")[1]
    rooms.recorded(exchange("later"))  # moves no page
    second = rooms.call("GET", f"/v1/interactions?limit=4&after={first['next']}")[1]
    assert [row["id"] for row in first["data"] + second["data"]] == ["other", *(f"row-{n}" for n in (4, 3, 2, 1, 0))]
    assert second["next"] is None
    assert ids(rooms, "tenant=bank") == ids(rooms, "status=503") == ids(rooms, "caller=ben") == ["other"]
    assert ids(rooms, "verdict=a_b") == ids(rooms, "verdict=block") == ids(rooms, "verdict=a_b:block") == ["row-3"]
    middle = first["data"][2]["at"]
    assert ids(rooms, f"since={middle}&until={middle + 1e-6}&version=3") == ["row-3"] and ids(rooms, "version=2") == []


def test_a_question_that_is_none_is_a_400(rooms: Rooms) -> None:
    for after in ("x", "WzFd", "WyIxIiwgIlx1MDAwMCJd"):  # not base64; one value; a NUL
        assert rooms.call("GET", f"/v1/interactions?after={after}")[1]["error"]["param"] == "after"
    for query in ("limit=0", "limit=1000", "since=nan", "status=1e9", "verdict=%25", "verdict=a:b:c", "tenant=%00"):
        code, body = rooms.call("GET", f"/v1/interactions?{query}")
        assert (code, body["error"]["code"]) == (400, "invalid_value"), query
        assert query.startswith(body["error"]["param"])


def test_the_same_request_id_twice_is_two_rows(rooms: Rooms) -> None:
    rooms.recorded(exchange("mine"))
    rooms.recorded(exchange("mine", caller="ben/bank"))
    assert ids(rooms) == ["mine", "mine"]


def test_texts_are_kept_of_a_share_and_the_row_always(open_rooms: Callable[..., Rooms]) -> None:
    rooms = open_rooms({"sample": 0.5})
    for number in range(20):
        rooms.recorded(exchange(f"id-{number}"))
    rows = rooms.call("GET", "/v1/interactions")[1]["data"]
    assert len(rows) == 20
    kept = {row["id"] for row in rows if row["messages"]}
    assert kept == {row["id"] for row in rows if row["sampled"]} == {row["id"] for row in rows if row["reply"]}
    assert kept == {f"id-{n}" for n in range(20) if is_sampled(f"id-{n}", 0.5)} and 4 < len(kept) < 16
    assert not is_sampled("x", 0) and is_sampled("x", 1)


def test_what_is_old_goes_and_a_value_is_forgotten_everywhere(rooms: Rooms) -> None:
    rooms.recorded(exchange("old"))
    for id_, reply in (("quoted", 'Say "Ärger & 100%\nso"'), ("kept", "Say Arger & 1000"), ("ben", "Other words")):
        done = rooms.recorded(exchange(id_, reply=reply, caller="ben/shop" if id_ == "ben" else "anna/shop"))
        rooms.run(rooms.reviews.submit, done, "always")
    said = {"interaction_id": "kept", "thumb": "down", "text": 'no "Ärger & 100%\nso"'}
    assert rooms.call("POST", "/v1/feedback", said)[0] == 200
    old = update(INTERACTIONS).where(INTERACTIONS.c.id == "old").values(at=time.time() - 3 * 86400)
    rooms.run(rooms.store.write, old)
    assert rooms.run(retention.sweep, rooms.store, 2) == 1
    assert ids(rooms) == ["ben", "kept", "quoted"]
    found = rooms.run(retention.forget, rooms.store, '"ärger & 100%\nSO"'.replace("ä", "Ä"))
    assert found == {"interactions": 1, "feedback": 1, "reviews": 1, "review_events": 0}
    assert rooms.call("GET", "/v1/interactions/quoted")[1]["reply"] is None
    assert rooms.call("GET", "/v1/interactions/kept")[1]["reply"] == "Say Arger & 1000"
    assert rooms.call("GET", "/v1/feedback")[1]["data"][0]["thumb"] == "down"
    found = rooms.run(retention.forget, rooms.store, None, "ben")
    assert found == {"interactions": 1, "feedback": 0, "reviews": 1, "review_events": 1}


def test_while_the_database_is_locked_the_policy_says_answer_or_refuse(
    open_rooms: Callable[..., Rooms], tmp_path: Path
) -> None:
    refusing = open_rooms({"when_behind": "refuse", "write_timeout": 0.4})
    answering = open_rooms({"when_behind": "answer", "write_timeout": 0.4})
    other = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refusing.interactions.check()
    with pytest.raises(ApiError) as refused:
        refusing.recorded(exchange("refused"))
    assert (refused.value.status_code, refused.value.code) == (503, "audit_unavailable")
    with pytest.raises(ApiError):
        refusing.interactions.check()
    answering.recorded(exchange("answered"))
    answering.interactions.check()
    with pytest.raises(StoreFailed, match="ask again to forget"):
        answering.run(retention.forget, answering.store, "x")
    other.close()
    wait_for(lambda: answering.store.spooled == 0 and refusing.store.behind_since is None, 5)
    refusing.interactions.check()
    assert ids(answering) == ["answered"]


def test_postgresql_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running() as server, contextlib.ExitStack() as stack:
        rooms = opened(server.address, {}, {})
        stack.callback(rooms.store.close)
        stack.enter_context(rooms.client)
        rooms.recorded(exchange("one", "a_b:block", reply="cut\0short"))
        done = rooms.recorded(exchange("one"))
        first = rooms.call("GET", "/v1/interactions?limit=1")[1]
        rest = rooms.call("GET", f"/v1/interactions?limit=1&after={first['next']}")[1]["data"]
        assert [row["reply"] for row in (*first["data"], *rest)] == ["We open on Sunday.", "cut\ufffdshort"]
        assert ids(rooms, "verdict=a_b") == ["one"]
        said = {"interaction_id": "one", "thumb": "down", "correction": "On\0Monday."}
        assert rooms.call("POST", "/v1/feedback", said)[0] == rooms.call("POST", "/v1/feedback", said)[0] == 200
        assert [record.completion for record in export(rooms.store)] == ["On\ufffdMonday."]
        rooms.run(rooms.reviews.submit, done, "always")
        review = rooms.call("GET", "/v1/reviews", caller="rita/staff")[1]["data"][0]
        assert rooms.call("POST", f"/v1/reviews/{review['id']}/claim", caller="rita/staff")[0] == 200
        assert rooms.call("POST", f"/v1/reviews/{review['id']}/approve", {}, "omar/staff")[0] == 409
        assert rooms.call("GET", "/v1/status")[1]["reviews"]["claimed"] == 1
        assert rooms.call("POST", f"/v1/reviews/{review['id']}/approve", {}, "rita/staff")[1]["state"] == "decided"
        assert rooms.run(retention.forget, rooms.store, "SUNDAY") == {
            "interactions": 1,
            "feedback": 0,
            "reviews": 1,
            "review_events": 0,
        }
        assert rooms.run(retention.sweep, rooms.store, -1) == 2 + 1 + 1 + 3


def test_the_chain_of_evidence_begins_at_a_reply(rooms: Rooms, tmp_path: Path) -> None:
    rooms.recorded(exchange("one"))
    address = f"sqlite:///{tmp_path}/gateway.db"
    row = latest(address, "one")
    assert (row["bundle"], row["run"], row["version"]) == ("b" * 64, LINEAGE["mlflow_run"], LINEAGE["version"])
    with pytest.raises(StoreFailed, match="does not know request two"):
        latest(address, "two")
