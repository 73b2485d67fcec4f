from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rooms import Rooms, exchange

from forgeline.config.schema.serve.people import Review
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.reviews import Reviews

REVIEWER, OTHER = "rita/staff", "omar/staff"


def queued(rooms: Rooms, caller: str = REVIEWER, state: str = "open") -> list[dict[str, Any]]:
    code, page = rooms.call("GET", f"/v1/reviews?state={state}", caller=caller)
    assert code == 200, page
    return page["data"]  # type: ignore[no-any-return]


def error(answered: tuple[int, Any]) -> tuple[int, str]:
    return answered[0], answered[1]["error"]["code"]


def test_the_policy_says_which_replies_a_person_sees(rooms: Rooms) -> None:
    def under(**policy: Any) -> Reviews:
        return Reviews(rooms.store, Review.model_validate(policy))

    plain, flagged = exchange("id-1"), exchange("id-2", "toxicity:flag")
    never = under(when="never", sample=0)
    assert never.due(plain) is never.due(flagged) is None
    sampled = under(when="never", sample=0.5, wait=True)
    due = [sampled.due(exchange(f"id-{n}")) for n in range(40)]
    assert 10 < due.count("sample") < 30 and due == [sampled.due(exchange(f"id-{n}")) for n in range(40)]
    some = under(when="flagged", sample=0, wait=True)
    assert (some.due(plain), some.due(flagged)) == (None, "flagged")
    assert under(when="always").due(plain) == "always"
    assert (some.waits("flagged"), some.waits("sample"), never.waits("queue")) == (True, False, True)


def test_the_riskiest_is_seen_first_and_decided_once(rooms: Rooms) -> None:
    for id_, verdict in (("calm", "pii:mask"), ("bad", "toxicity:flag"), ("bad-2", "toxicity:flag")):
        rooms.run(rooms.reviews.submit, exchange(id_, verdict), "flagged")
    first, second, third = queued(rooms)
    assert [first["interaction_id"], second["interaction_id"], third["interaction_id"]] == ["bad", "bad-2", "calm"]
    assert (first["risk"], first["state"], first["mine"], first["wait"]) == (2, "open", False, False)
    assert first["messages"][0]["content"] == "When do you open?" and first["verdicts"][0]["guard"] == "toxicity"

    path = f"/v1/reviews/{first['id']}"
    claimed = rooms.call("POST", f"{path}/claim", caller=REVIEWER)[1]
    assert (claimed["state"], claimed["claimed_by"]) == ("claimed", "rita")
    assert error(rooms.call("POST", f"{path}/claim", caller=OTHER)) == (409, "claimed")
    assert error(rooms.call("POST", f"{path}/approve", {}, OTHER)) == (409, "claimed")
    code, done = rooms.call("POST", f"{path}/approve", {}, REVIEWER)
    assert (code, done["decision"], done["final"]) == (200, "approved", "We open on Sunday.")
    assert error(rooms.call("POST", f"{path}/reject", {"reason": "no"}, OTHER)) == (409, "decided")

    page = rooms.call("GET", "/v1/reviews", caller=REVIEWER)[1]
    assert page["counts"] == {"open": 2, "claimed": 0, "decided": 1} and len(page["data"]) == 2
    assert [each["id"] for each in queued(rooms, state="decided")] == [first["id"]]
    history = rooms.call("GET", path, caller=OTHER)[1]["history"]
    said = [(event["who"], event["what"], event["why"]) for event in history]
    assert said == [("anna", "opened", "flagged"), ("rita", "claimed", None), ("rita", "approved", None)]
    assert [event for event, _ in rooms.told] == ["review.requested"] * 3 + ["review.decided"]


def test_of_two_at_once_one_wins(rooms: Rooms) -> None:
    rooms.run(rooms.reviews.submit, exchange("one"), "always")
    path = f"/v1/reviews/{queued(rooms)[0]['id']}"

    async def both() -> list[Any]:
        people = [Caller(f"reviewer-{n}", "staff", frozenset({"reviewer"})) for n in range(8)]
        claims = (rooms.reviews.claim(path.rsplit("/", 1)[1], who) for who in people)
        return await asyncio.gather(*claims, return_exceptions=True)

    answers = rooms.run(both)
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert {answer.code for answer in answers if not isinstance(answer, dict)} == {"claimed"}


def test_a_claim_runs_out(open_rooms: Callable[..., Rooms]) -> None:
    rooms = open_rooms(review={"claim": 1e-6})
    rooms.run(rooms.reviews.submit, exchange("one"), "always")
    path = f"/v1/reviews/{queued(rooms)[0]['id']}"
    assert rooms.call("POST", f"{path}/claim", caller=REVIEWER)[0] == 200
    assert queued(rooms)[0]["claimed_by"] is None
    assert rooms.call("POST", f"{path}/claim", caller=OTHER)[0] == 200


def test_nobody_decides_on_their_own_request(rooms: Rooms) -> None:
    rooms.run(rooms.reviews.submit, exchange("one", caller="rita/staff"), "always")
    review = queued(rooms)[0]
    assert review["mine"] and not queued(rooms, OTHER)[0]["mine"]
    for action, body in (("approve", {}), ("edit", {"text": "x"}), ("reject", {"reason": "x"})):
        assert error(rooms.call("POST", f"/v1/reviews/{review['id']}/{action}", body, REVIEWER)) == (403, "own_request")
    assert rooms.call("POST", f"/v1/reviews/{review['id']}/reject", {"reason": "No."}, OTHER)[0] == 200


def test_a_caller_gets_what_a_person_approved(open_rooms: Callable[..., Rooms]) -> None:
    rooms = open_rooms(review={"when": "always", "wait": True})
    ticket = rooms.run(rooms.reviews.submit, exchange("one"), "always")
    path = f"/v1/reviews/tickets/{ticket}"
    assert rooms.call("GET", path)[1]["state"] == "waiting" and rooms.call("GET", path)[1]["reply"] is None
    assert error(rooms.call("GET", path, caller="eve/bank")) == (404, "ticket_not_found")
    review = queued(rooms)[0]
    code, done = rooms.call("POST", f"/v1/reviews/{review['id']}/edit", {"text": "On Monday."}, REVIEWER)
    assert (code, done["decision"], done["reply"], done["final"]) == (200, "edited", "We open on Sunday.", "On Monday.")
    answered = rooms.call("GET", path)[1]
    assert (answered["state"], answered["reply"], answered["finish_reason"]) == ("answered", "On Monday.", "stop")


def test_a_ticket_of_the_human_rung_needs_a_written_reply(rooms: Rooms) -> None:
    asked = exchange("one", reply="")
    ticket = rooms.run(rooms.reviews.open_ticket, asked)
    assert asked.ticket == ticket
    review = queued(rooms)[0]
    assert (review["why"], review["risk"], review["wait"]) == ("queue", 3, True)
    path = f"/v1/reviews/{review['id']}"
    assert error(rooms.call("POST", f"{path}/approve", {}, REVIEWER)) == (409, "no_reply")
    assert rooms.call("POST", f"{path}/reject", {"reason": "Not ours."}, REVIEWER)[0] == 200
    told = rooms.call("GET", f"/v1/reviews/tickets/{ticket}")[1]
    assert (told["state"], told["reply"], told["reason"]) == ("rejected", None, "Not ours.")


def test_bad_decisions_are_refused(rooms: Rooms) -> None:
    rooms.run(rooms.reviews.submit, exchange("one"), "always")
    path = f"/v1/reviews/{queued(rooms)[0]['id']}"
    for action, body in (("edit", {"text": " "}), ("edit", {}), ("reject", {"reason": ""}), ("approve", {"x": 1})):
        assert rooms.call("POST", f"{path}/{action}", body, REVIEWER)[0] == 400
    assert rooms.call("GET", "/v1/reviews?state=lost", caller=REVIEWER)[0] == 400
    assert error(rooms.call("POST", "/v1/reviews/none/approve", {}, REVIEWER)) == (404, "review_not_found")
