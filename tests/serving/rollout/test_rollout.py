"""Another version in front of callers: canary, shadow, blue-green, promotion, roll-back, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scene import wait_for
from trials import House, Scripted, bundle, delete, house

from forgeline.serving.bundle import MANIFEST, verify
from forgeline.serving.order import Order

Open = Callable[..., AbstractContextManager[House]]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    return partial(house, tmp_path, monkeypatch)


@pytest.fixture
def served(opened: Open) -> Iterator[House]:
    with opened() as one:
        yield one


def test_a_canary_answers_the_same_callers_and_everything_says_which_version_it_was(served: House) -> None:
    served.start(share=0.5)
    by_user = {f"u{number}": served.ask(f"u{number}") for number in range(40)}
    dealt = {user: answer.headers["x-forgeline-version"] for user, answer in by_user.items()}
    assert 8 < sum(version == "2" for version in dealt.values()) < 32
    for user, version in dealt.items():
        assert served.ask(user).headers["x-forgeline-version"] == version
    digests = {str(number): verify(bundle(served.folder, str(number))).digest for number in (1, 2)}
    for answer in by_user.values():
        version, said = answer.headers["x-forgeline-version"], answer.json()
        assert said["forgeline"]["version"] == version
        assert said["system_fingerprint"] == answer.headers["x-forgeline-bundle"] == digests[version][:16]
        row = served.client.get(f"/v1/interactions/{answer.headers['x-request-id']}").json()
        assert (row["version"], row["bundle"]) == (version, digests[version])
    metrics = served.client.get("/metrics").text
    counted = sum(version == "2" for version in served.versions)
    assert f'forgeline_rungs_total{{arm="2",rung="engine",version="2"}} {counted:.1f}' in metrics
    assert f'forgeline_rollout_requests_total{{arm="challenger"}} {counted:.1f}' in metrics
    assert served.rollout()["answered"] == {"live": 80 - counted, "challenger": counted, "failed_over": 0}
    before = {user for user, version in dealt.items() if version == "2"}
    assert served.post("share", share=0.8).json()["rollout"]["share"] == 0.8
    after = {user for user in dealt if served.ask(user).headers["x-forgeline-version"] == "2"}
    assert before < after  # who was asked by it still is


def test_what_is_promoted_is_live_and_what_was_comes_back_at_once(served: House) -> None:
    served.start(share=0.2)
    assert served.post("promote", reason="better").json()["live"]["version"] == "2"
    assert {served.ask().headers["x-forgeline-version"] for _ in range(5)} == {"2"}
    assert served.client.get("/readyz").json()["version"] == "2"
    assert served.client.get("/v1/status").json()["deployment"]["version"] == "2"
    assert Order.read(served.order).bundle == bundle(served.folder, "2")
    assert served.written("promoted_live")[0].facts["reason"] == "better"
    back = served.post("rollback", reason="worse after all").json()
    assert (back["live"]["version"], back["former"], back["rollout"]["state"]) == ("1", None, "rolled back")
    assert back["live"]["engine"] == "transformers"
    assert served.ask().headers["x-forgeline-version"] == "1"
    assert Order.read(served.order).bundle == bundle(served.folder, "1")
    [entry] = served.written("rolled_back_live")
    assert (entry.facts["live"]["version"], entry.facts["before"]["version"]) == ("1", "2")
    wait_for(lambda: served.engines["2"].closed)
    assert [entry.facts["by"] for entry in served.written("rollout_started")] == ["anonymous"]


def test_what_was_live_cools_down_and_is_loaded_again_for_a_roll_back(opened: Open) -> None:
    with opened(warm=0.05) as served:
        served.start(mode="blue-green", until="ready")
        served.post("promote")
        wait_for(lambda: served.engines["1"].closed and not served.client.get("/v1/rollout").json()["former"])
        served.post("rollback")
        served.awaits("rolled back")
        assert served.ask().headers["x-forgeline-version"] == "1"
        assert served.post("rollback").json()["error"]["code"] == "bundle_not_found"  # not forth again


@pytest.mark.parametrize(
    ("bad", "measure"),
    [
        (Scripted(every=2), {"error"}),
        (Scripted(every=1), {"error"}),
        (Scripted(words=("Damn ", "it, ", "we ", "open.")), {"guard"}),
        (Scripted(delay=0.004), {"pace", "first"}),  # it is late from the first token on
    ],
    ids=["breaks now and then", "always breaks", "is against policy", "is slow"],
)
def test_a_worse_version_is_aborted_and_no_caller_pays_for_it(opened: Open, bad: Scripted, measure: set[str]) -> None:
    bad.words = tuple(word.lower() for word in bad.words)
    with opened({"1": Scripted(delay=0.001), "2": bad}) as served:
        for _ in range(60):
            served.ask()
        served.start(share=0.3)
        answered = served.until_aborted()
        assert answered < 200
        found = served.rollout()
        assert (found["why"].removeprefix("worse by ") in measure, served.live()) == (True, "1")
        served.versions.clear()
        for _ in range(20):
            served.ask()
        assert set(served.versions) == {"1"}
        [entry] = wait_for(lambda: served.written("rollout_aborted"))
        assert entry.facts["by"] == "the evidence"
        assert entry.facts["figures"]["evidence"]["e_value"] >= 20
        wait_for(lambda: served.engines["2"].closed)


def test_a_stream_that_breaks_before_its_first_byte_is_answered_by_what_is_live(opened: Open) -> None:
    with opened({"2": Scripted(every=1)}) as served:
        served.start(share=0.9)
        answers = [served.ask(stream=True) for _ in range(6)]
        assert all('"finish_reason":"stop"' in answer.text and '"error"' not in answer.text for answer in answers)
        assert set(served.versions) == {"1"}
        assert served.rollout()["answered"]["failed_over"] > 0


def test_shadows_are_asked_the_same_and_nobody_sees_what_they_say(opened: Open) -> None:
    with opened({"2": Scripted(words=("We ", "open ", "at ", "ten."))}) as served:
        served.start(mode="shadow", share=0.9)
        answers = [served.ask() for _ in range(30)]
        assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {
            "We open at nine on Sunday."
        }
        assert set(served.versions) == {"1"}
        copies = wait_for(lambda: (found := served.rollout()["copies"])["compared"] == found["asked"] > 15 and found)
        assert copies["same"] == 0
        assert copies["words_in_common"] == pytest.approx(0.6)
        rows = served.client.get("/v1/interactions").json()["data"]
        assert {row["version"] for row in rows} == {"1"}
        assert len(rows) == 30
        served.engines["2"].every = 1
        served.until_aborted()


def test_a_challenger_is_asked_before_any_caller_is(served: House) -> None:
    smoke = {"messages": [{"role": "user", "content": "When?"}], "reply": "We open at nine on Sunday.", "max_tokens": 9}
    served.start(mode="blue-green", until="ready", smoke=[smoke])
    assert served.engines["2"].asked == 1
    for _ in range(10):
        served.ask()
    assert served.engines["2"].asked == 1  # and none is until it is promoted
    served.post("abort")
    served.start(mode="canary", until="aborted", smoke=[{**smoke, "reply": "We are closed."}])
    assert "the bundle says 'We are closed.'" in served.rollout()["why"]


def test_thumbs_count(opened: Open) -> None:
    with opened() as served:
        served.start(share=0.5)
        for _ in range(400):
            answer = served.ask()
            down = answer.headers["x-forgeline-version"] == "2"
            said = {"interaction_id": answer.headers["x-request-id"], "thumb": "down" if down else "up"}
            served.client.post("/v1/feedback", json=said)
            if served.rollout()["state"] == "aborted":
                break
        assert served.rollout()["why"] == "worse by thumb"


def test_an_engine_of_another_kind_is_tried_by_an_order_beside_it(served: House) -> None:
    order = Order.read(served.order)
    engine = {"engine": {"name": "url", "url": "http://127.0.0.1:9/v1"}}
    asked = order.model_copy(update={"serve": order.serve.model_validate({**order.serve.model_dump(), **engine})})
    asked.save(served.order.with_name("challenger.json"))
    assert served.post(mode="blue-green").status_code == 200
    served.awaits("ready")
    served.post("promote")
    assert Order.read(served.order).serve.engine.name == "url"


def refused(answer: Any, code: str, said: str) -> None:
    error = answer.json()["error"]
    assert (error["code"], answer.status_code in {404, 409}) == (code, True)
    assert said in error["message"]


def test_what_cannot_be_is_refused_in_a_sentence_and_the_old_version_answers(served: House) -> None:
    refused(served.post("promote"), "no_rollout", "no roll-out to promote")
    refused(served.post("abort"), "no_rollout", "no roll-out to abort")
    refused(served.post("rollback"), "bundle_not_found", "name a bundle")
    refused(served.post(bundle="9"), "bundle_not_found", "There is no bundle 9")
    refused(served.post(bundle="1"), "live_already", "Version 1 on this engine is live already")
    refused(served.post(), "bundle_not_found", "challenger.json")
    bundle(served.folder, "7", model="another")
    refused(served.post(bundle="7"), "another_model", "what is live is reply-writer")
    altered = bundle(served.folder, "8") / MANIFEST
    altered.write_text(altered.read_text().replace('"float32"', '"bfloat16"'))
    refused(served.post(bundle="8"), "bundle_refused", "was altered")
    served.start()
    refused(served.post(bundle="2"), "rollout_open", "A roll-out of version 2 is open")
    refused(served.post("rollback"), "rollout_open", "promote or abort it first")
    served.post("promote")
    served.engines["1"].ready = False  # what was warm has died, and its bundle is gone
    delete(bundle(served.folder, "1"))
    refused(served.post("rollback"), "bundle_not_found", "The bundle of version 1 is no longer at")
    refused(served.post("rollback", bundle="1"), "bundle_not_found", "There is no bundle 1")
    assert served.ask().headers["x-forgeline-version"] == "2"
    assert served.client.post("/v1/rollout", json={"bundle": "../../etc", "reason": "x"}).status_code == 400


def test_a_version_that_does_not_load_is_aborted_with_the_reason(opened: Open) -> None:
    with opened({"2": Scripted(loads=False)}) as served:
        served.start(until="aborted")
        assert served.rollout()["why"] == "version 2 cannot answer: The weights are not there."
        assert served.ask().headers["x-forgeline-version"] == "1"


def test_a_gateway_without_an_order_brings_nothing_else_up(served: House) -> None:
    order = Order.read(served.order)
    order.model_copy(update={"ledger": None}).save(served.order)
    refused(served.post(bundle="2"), "no_order", "order with a ledger")


def test_a_roll_out_that_is_on_ends_with_the_gateway(opened: Open) -> None:
    with opened() as served:
        served.start()
    [entry] = served.written("rollout_aborted")
    assert entry.facts["reason"] == "it was stopped during it"


def killed(served: House) -> Callable[[], None]:
    """Return what makes the files look as if the gateway had been killed now."""
    ledger = served.folder / "ledger.jsonl"
    now = ledger.read_text()
    return lambda: ledger.write_text(now) and None


def test_a_roll_out_that_was_on_when_the_gateway_was_killed_is_recorded_as_aborted(opened: Open) -> None:
    with opened() as served:
        served.start()
        kill = killed(served)
    kill()
    with opened() as again:
        [entry] = again.written("rollout_aborted")
        assert (entry.facts["reason"], again.live()) == ("the gateway ended during it", "1")
        assert again.client.get("/v1/rollout").json()["rollout"] is None
        again.start()


def test_a_promotion_that_was_half_written_when_the_gateway_was_killed_stands(opened: Open) -> None:
    with opened() as served:
        served.start()
        kill = killed(served)
        order = Order.read(served.order)
    kill()
    order.model_copy(update={"bundle": bundle(served.folder, "2")}).save(served.order)
    with opened() as again:
        [entry] = again.written("promoted_live")
        assert "ended while it was promoted" in entry.facts["reason"]
        assert again.ask().headers["x-forgeline-version"] == "2"


def test_nothing_is_promoted_that_cannot_be_written_down(served: House) -> None:
    served.start()
    ledger = served.folder / "ledger.jsonl"
    before = ledger.read_text()
    ledger.write_text(before + json.dumps({"not": "an entry"}) + "\n")
    answer = served.post("promote")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert served.live() == "1"
    assert Order.read(served.order).bundle == bundle(served.folder, "1")
    ledger.write_text(before)
    assert served.post("promote").json()["live"]["version"] == "2"
