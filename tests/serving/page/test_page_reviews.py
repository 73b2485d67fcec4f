"""The review queue, by a reviewer in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import CTRL, Page
from page_stub import Stub, review

from forgeline.serving.gateway.protocol import ApiError

Enter = Callable[..., Page]
CASE = "#case"


@pytest.fixture
def page(enter: Enter, gateway: Stub) -> Page:
    gateway.reviews = [review(1), review(2, risk=3, why="queue", reply=""), review(3, mine=True, risk=0, why="sample")]
    page = enter("reviews", "reviewer")
    page.wait_text("3 open, 0 claimed, 0 decided", "#reviews-note")
    return page


def test_a_reply_is_claimed_and_approved_by_two_keys(page: Page, gateway: Stub) -> None:
    assert page.see("[...document.querySelectorAll('nav a')].map((link) => link.hidden)") == [True, False, True]
    page.press("c")
    page.wait_text("Claimed by you.", CASE)
    page.press("a")
    page.wait_text("1 decided", "#reviews-note")
    assert gateway.decided == [("r1", "claim", {}), ("r1", "approve", {})]
    page.wait_text("No engine answered", CASE)  # the next one
    page.wait_text("The reply is approved.", "#heard")


def test_an_edit_shows_what_it_changes_word_by_word(page: Page, gateway: Stub) -> None:
    page.press("e")
    assert page.focused() == "textbox What it should say"
    page.press("a", CTRL)
    page.type("The Gonville Hotel has three stars, dear guest.")
    marks = page.see("[...document.querySelectorAll('#case ins, #case del')].map((one) => one.textContent)")
    assert marks == ["removed: 1;", "added: three;", "added: , dear guest;"]
    assert not gateway.decided  # keys that are typed do nothing else
    page.click("#case form button[type=submit]")
    page.wait_text("1 decided", "#reviews-note")
    assert gateway.decided == [("r1", "edit", {"text": "The Gonville Hotel has three stars, dear guest."})]
    page.see("document.getElementById('reviews-state').focus()")
    page.press("d")
    page.wait_text("edited by key-reviewer", CASE)
    assert page.see("document.querySelectorAll('#case ins').length") == 2


def test_a_rejection_needs_a_reason(page: Page, gateway: Stub) -> None:
    page.press("r")
    page.press("Enter")
    page.click("#case form button[type=submit]")
    assert not gateway.decided
    page.press("Escape")
    assert page.focused() == "button Reject"
    page.press("r")
    page.type("It is wrong.")
    page.click("#case form button[type=submit]")
    page.wait_text("1 decided", "#reviews-note")
    assert gateway.decided == [("r1", "reject", {"reason": "It is wrong."})]


def test_somebody_else_may_be_first(page: Page, gateway: Stub) -> None:
    gateway.refusals["approve"] = ApiError(409, "This review is decided.", "decided")
    theirs = {"state": "decided", "decision": "rejected", "decided_by": "key-other", "decided_at": 1.8e9}
    gateway.reviews[0].update(theirs)
    page.press("a")
    page.wait_text("Somebody else was first. This review is decided.", CASE)
    assert "rejected by key-other" in page.text(CASE)  # the truth, not what was hoped
    page.click("#reviews-reload")
    page.wait_text("2 open", "#reviews-note")


def test_nobody_decides_their_own_request(page: Page, gateway: Stub) -> None:
    page.press("j")
    page.press("j")
    page.wait_text("Somebody else has to decide (four eyes).", CASE)
    assert "Approve" not in page.text(CASE)
    page.press("a")
    page.press("k")
    page.wait_text("No engine answered", CASE)
    assert "Approve" not in page.text(CASE) and "Edit" in page.text(CASE)  # there is nothing to approve
    gateway.refusals["edit"] = ApiError(403, "Who asked may not decide.", "own_request")
    page.press("e")
    page.type("Hello.")
    page.click("#case form button[type=submit]")
    page.wait_text("This key may not do that. Who asked may not decide.", CASE)
    assert not gateway.decided


def test_single_keys_are_listed_and_can_be_turned_off(page: Page, gateway: Stub) -> None:
    page.press("?")
    assert "approve it" in page.text("#keys-dialog")
    page.click("#keys-on")
    page.press("Escape")
    page.press("a")
    assert not gateway.decided and page.text(CASE).startswith("Flagged by a guard")
    page.press("?")
    assert not page.see("document.getElementById('keys-dialog').open")
