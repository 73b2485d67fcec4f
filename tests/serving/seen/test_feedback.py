from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rooms import Rooms, exchange

from forgeline.serving.gateway.feedback import export


def give(rooms: Rooms, caller: str = "anna/shop", **said: Any) -> tuple[int, Any]:
    return rooms.call("POST", "/v1/feedback", {"interaction_id": "one", "thumb": "up", **said}, caller)


def test_the_last_word_counts_and_the_same_word_is_one(rooms: Rooms) -> None:
    rooms.recorded(exchange("one"))
    code, first = give(rooms, text=" Good, a@b.example ", reasons=["clear"])
    assert code == 200 and first["text"] == "Good, <EMAIL_1>" and first["version"] == "3"
    assert give(rooms, text="Good, a@b.example", reasons=["clear"])[1]["id"] == first["id"]
    code, second = give(rooms, thumb="down")
    assert code == 200 and second["id"] != first["id"]
    assert give(rooms, caller="ben/shop")[0] == 200  # the same tenant's
    listed = rooms.call("GET", "/v1/feedback?interaction_id=one")[1]["data"]
    assert [(entry["caller"], entry["thumb"], entry["counts"]) for entry in listed] == [
        ("ben", "up", True),
        ("anna", "down", True),
        ("anna", "up", False),
    ]
    assert [entry["id"] for entry in rooms.call("GET", "/v1/feedback?thumb=down")[1]["data"]] == [second["id"]]
    assert [event for event, _ in rooms.told] == ["feedback.received"] * 3


def test_what_is_not_ones_own_or_not_feedback_is_refused(rooms: Rooms) -> None:
    rooms.recorded(exchange("one"))
    for refused, caller in (({}, "eve/bank"), ({"interaction_id": "two"}, "anna/shop")):
        code, body = give(rooms, caller, **refused)
        assert (code, body["error"]["code"]) == (404, "interaction_not_found")
    bad = (
        {"thumb": "sideways"},
        {"interaction_id": "../one"},
        {"text": " "},
        {"text": "x" * 4001},
        {"correction": "\n"},
        {"reasons": ["x"] * 9},
        {"reasons": ["x" * 65]},
        {"stars": 5},
    )
    for said in bad:
        code, body = give(rooms, **said)
        assert code == 400 and body["error"]["param"].startswith(next(iter(said))), said
    surrogate = '{"interaction_id": "one", "thumb": "up", "text": "\\ud800"}'
    assert rooms.client.post("/v1/feedback", content=surrogate).status_code == 400
    assert rooms.call("GET", "/v1/feedback")[1] == {"data": [], "next": None}


def test_corrected_answers_become_records(open_rooms: Callable[..., Rooms]) -> None:
    rooms = open_rooms({"sample": 0.5})
    for number in range(8, 16):
        rooms.recorded(exchange(f"id-{number}"))
        body = {"interaction_id": f"id-{number}", "thumb": "down", "correction": f"We open at {number}."}
        assert rooms.call("POST", "/v1/feedback", body)[0] == 200
    again = {"interaction_id": "id-9", "thumb": "up", "correction": "We open on Sunday."}
    rooms.call("POST", "/v1/feedback", again)
    rooms.call("POST", "/v1/feedback", {"interaction_id": "id-10", "thumb": "up"})
    with_texts = {row["id"] for row in rooms.call("GET", "/v1/interactions")[1]["data"] if row["sampled"]}
    records = {record.origin["interaction_id"]: record for record in export(rooms.store)}
    assert {"id-9", "id-10"} <= with_texts and set(records) == with_texts - {"id-10"}
    record = records["id-8"]
    assert record.source == "feedback" and record.rejected == "We open on Sunday."
    assert record.prompt == [{"role": "user", "content": "When do you open?"}]
    assert record.completion.startswith("We open at ") and record.origin["run"] == "run-1"
    assert records["id-9"].rejected is None  # it was right after all
    assert len({each.key for each in records.values()}) == 1  # one question, one split
    assert not list(export(rooms.store, since=2e9))
