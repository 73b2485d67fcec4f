"""The chat, by a person in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable

from browser import CTRL, Browser, Page
from page_stub import REPLY, SYSTEM, Stub

from forgeline.serving.gateway.protocol import ApiError

Enter = Callable[..., Page]
PROMPT = "act: Hotel-Inform\nname: the gonville hotel\nstars: 3\narea: centre\nparking"
SAID = "#turns > li:last-child .said"
EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script><b>bold</b> [x](javascript:alert(1)) </p>'


def ask(page: Page, text: str = "Hello") -> None:
    page.click("input[name=mode][value=text]")
    page.click("#question")
    page.type(text)
    page.press("Enter", CTRL)


def replied(page: Page, words: str = REPLY) -> None:
    page.wait_text(words, SAID)
    page.wait("document.querySelector('#turns > li:last-child .about') !== null")


def button(page: Page, name: str) -> None:
    buttons = "[...document.querySelectorAll('#turns > li:last-child button')]"
    page.see(f"{buttons}.find((one) => one.textContent === '{name}').setAttribute('id', 'wanted')")
    page.click("#wanted")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(enter: Enter, url: str) -> None:
    page = enter("chat", role="nobody")
    page.wait_text("does not know this key", "#key-why")
    assert "forgeline key local" in page.text("#key-hint")
    page.press("a", CTRL)
    page.type("caller")
    page.press("Enter")
    page.wait_text("Nothing is asked yet", "#chat")
    assert page.see("[Object.values(sessionStorage).join(), localStorage.length, document.cookie]") == ["caller", 0, ""]
    assert "caller" not in page.see("location.href")
    page.click("#key-open")
    assert "Reviews: hidden. It needs the role reviewer; this key has caller." in page.text("#key-roles")
    page.press("Escape")
    assert page.see("[...document.querySelectorAll('nav a')].map((link) => link.hidden)") == [False, True, True]
    page.see("location.hash = 'status'")
    page.wait_text("Status needs the role operator; this key has caller.", "#refused")


def test_no_key_is_asked_for_where_anyone_may_call(browser: Browser, gateway: Stub, url: str) -> None:
    gateway.anonymous = True
    page = browser.page()
    page.open(url)
    page.wait_text("Nothing is asked yet", "#chat")
    assert not page.see("document.getElementById('key-dialog').open")
    page.close()


def test_the_form_writes_the_prompt_and_the_reply_streams(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    gateway.answers = [["The Gonville", " Hotel has 3 stars.", " It", gateway.go, " has parking."]]
    page.click("#fill")
    page.click("#send")
    page.wait_text("It", SAID)
    assert page.text(SAID) == "The Gonville Hotel has 3 stars. It"  # while the rest is not there yet
    assert page.text("#heard").splitlines()[-1] == "The Gonville Hotel has 3 stars."  # whole sentences are read aloud
    assert page.focused() == "button Stop"
    gateway.go.set()
    replied(page, "It has parking.")
    assert page.text("#heard").splitlines()[-1] == "It has parking." and page.focused() == "button Write the reply"
    asked = gateway.asked[0]
    assert asked["messages"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
    assert (asked["model"], asked["stream"]) == ("reply-writer", True)
    shown = page.text("#turns > li")
    for words in ("reply-writer, version 3", "masked: pii in the question", "flagged: ungrounded in the reply",
                  "hotel: the gonville hotel; stars 3; parking yes"):  # fmt: skip
        assert words in shown
    assert "toxicity" not in shown  # it passed
    marks = page.see("[...document.querySelectorAll('#turns dd')].map((fact) => fact.innerText)")
    assert marks == ["Hotel-Inform", "the gonville hotel said", "3 said", "centre not said", "—"]


def test_values_left_empty_are_not_told(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    page.click("input[name=value]")
    page.type("alpha")
    page.click("#add-fact")
    page.type("phone")
    page.press("Tab")
    page.type("123")
    page.press("Enter")
    replied(page)
    assert gateway.asked[0]["messages"][-1]["content"] == "act: Hotel-Inform\nname: alpha\nphone: 123"


def test_a_reply_can_be_stopped(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    gateway.answers = [["So far", gateway.go]]
    ask(page)
    page.wait_text("So far", SAID)
    page.click("#stop")
    page.wait_text("Stopped.", "#turns")
    assert page.text(SAID) == "So far"
    ask(page, "Again")
    replied(page)


def test_another_wording_stands_beside_the_first(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    ask(page)
    replied(page)
    gateway.answers = ["It is a fine hotel."]
    button(page, "Another wording")
    replied(page, "It is a fine hotel.")
    assert gateway.asked[1]["temperature"] == 0.7 and gateway.asked[1]["seed"] >= 0
    assert gateway.asked[1]["messages"] == gateway.asked[0]["messages"]
    page.click("button[aria-label='Earlier wording']")
    page.wait_text(REPLY, SAID)
    assert "1 of 2" in page.text("#turns")


def test_a_question_is_edited_and_asked_again(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    page.click("#fill")
    page.click("#send")
    replied(page)
    button(page, "Edit")
    assert page.focused() == "textbox Value of name" and page.text("#send") == "Ask again"
    page.press("a", CTRL)
    page.type("alpha")
    page.press("Enter")
    replied(page)
    page.wait("document.querySelectorAll('#turns > li').length === 1")
    assert gateway.asked[1]["messages"][-1]["content"] == PROMPT.replace("the gonville hotel", "alpha")


def test_a_reply_can_be_copied(enter: Enter) -> None:
    page = enter("chat", "caller")
    ask(page)
    replied(page)
    button(page, "Copy")
    page.wait_text("Copied.", "#heard")
    page.click("input[name=mode][value=text]")
    page.click("#question")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="v", commands=["paste"])
    assert page.see("document.getElementById('question').value") == REPLY


def test_an_opinion_is_tied_to_the_reply(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    ask(page)
    replied(page)
    page.click("button[aria-label='Bad reply']")
    page.wait_text("Your opinion is saved.", "#turns")
    assert gateway.told == [{"interaction_id": "i1", "thumb": "down"}]
    page.click(".opinion input[value=wrong]")
    page.click(".opinion label:nth-of-type(2) textarea")
    page.press("a", CTRL)
    page.type(REPLY.replace("3 star", "4 star"))
    assert page.see("[...document.querySelectorAll('.opinion ins, .opinion del')].map((one) => one.textContent)") == [
        "removed: 3;", "added: 4;"]  # fmt: skip
    page.click(".opinion button[type=submit]")
    page.wait("document.activeElement?.textContent === 'Save'")
    page.wait_text("Your opinion is saved.", "#turns")
    assert gateway.told[-1] == {"interaction_id": "i1", "thumb": "down", "reasons": ["wrong"],
                                "correction": REPLY.replace("3 star", "4 star")}  # fmt: skip
    gateway.refusals["feedback"] = ApiError(404, "No such interaction.", "interaction_not_found")
    page.click("button[aria-label='Good reply']")
    page.wait_text("Your opinion is not saved.", "#turns")
    assert page.see("document.querySelector(\"[aria-label='Bad reply']\").getAttribute('aria-pressed')") == "true"


def test_too_much_is_told_with_the_seconds_to_wait(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    gateway.answers = [ApiError(429, "Too many requests are waiting.", "queue_full", retry_after=2)]
    ask(page)
    page.wait_text("Try again in 2 s", "#turns")
    assert "takes no more requests just now. Too many requests are waiting." in page.text("#turns .fault")
    button(page, "Try again in 2 s")
    assert len(gateway.asked) == 1  # not yet
    page.wait("[...document.querySelectorAll('.fault button')].some((one) => one.textContent === 'Try again')")
    page.wait_text("You can try again now.", "#heard")
    page.click(".fault button")
    replied(page)


def test_what_breaks_is_told_in_words_and_what_came_is_kept(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    for broken, words in [
        (["Half a", ApiError(500, "The engine broke.", "engine_failed")], "The engine broke."),
        (["Half a", None], "The reply ended before it was complete."),
        (ApiError(503, "The model is still loading.", "loading"), "cannot answer just now. The model"),
        (ApiError(401, "No such key."), "does not know this key"),
    ]:
        gateway.answers = [broken]
        ask(page)
        page.wait_text(words, "#turns > li:last-child .fault")
        if isinstance(broken, list):
            assert page.text(SAID) == "Half a"
    page.wait("document.getElementById('key-dialog').open")
    page.press("Escape")
    page.network(offline=True)
    page.wait_text("This device is offline.", "#notice")
    ask(page, "Are you there?")
    page.wait_text("This device is offline.", "#turns > li:last-child .fault")
    page.network(latency=150, rate=20_000)
    page.wait("document.getElementById('notice').hidden")
    page.click("#turns > li:last-child .fault button")
    replied(page)


def test_a_ticket_becomes_the_reply_of_a_person(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    for state, words in [("answered", "We open on Monday."), ("rejected", "A person rejected the reply: Not ours.")]:
        ticket = {"state": "waiting", "reply": None, "finish_reason": None, "reason": None}
        gateway.tickets["T-1"] = ticket
        gateway.answers = [{"object": "review.ticket", "ticket": "T-1", "state": "waiting"}]
        ask(page)
        page.wait_text("Ticket T-1", "#turns > li:last-child")
        ticket.update(state=state, reply="We open on Monday.", finish_reason="stop", reason="Not ours.")
        page.wait_text(words, "#turns > li:last-child")


def test_text_never_becomes_markup(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    gateway.answers = [[EVIL, EVIL]]
    ask(page, EVIL)
    replied(page, EVIL)
    page.click("button[aria-label='Bad reply']")
    page.wait_text("saved", "#turns")
    assert page.text(SAID) == EVIL * 2 and page.text("#turns .asked p") == EVIL
    assert page.see("[document.querySelectorAll('#turns :is(img, script, b, a)').length, window.hit ?? 0]") == [0, 0]


def test_any_script_and_any_length_fits_a_phone(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller", width=360, height=740)
    gateway.answers = ["مرحبا، نفتح يوم الاثنين.", "W" * 4000]
    for question in ("متى تفتحون؟", "https://example.org/" + "x" * 500):
        ask(page, question)
        page.wait("document.querySelector('#turns > li:last-child .about') !== null")
    assert page.see("getComputedStyle(document.querySelector('#turns .said')).direction") == "rtl"
    assert page.see("document.documentElement.scrollWidth") == 360
    sizes = page.see("[...document.querySelectorAll('#chat button')].filter((one) => one.offsetParent)"
                     ".map((one) => Math.min(one.offsetWidth, one.offsetHeight))")  # fmt: skip
    assert min(sizes) >= 32  # pixels: WCAG 2.2 asks for 24


def test_two_hundred_messages_are_kept_in_the_tab(enter: Enter, gateway: Stub, browser: Browser, url: str) -> None:
    page = enter("chat", "caller")
    reply = {"state": "done", "text": REPLY, "model": "reply-writer", "version": "3", "id": "i1", "more": {}}
    turn = {"prompt": PROMPT, "system": "", "model": "reply-writer", "replies": [reply], "shown": 0}
    turns = [{"id": f"turn-{n}", **turn} for n in range(100)]
    page.see(f"sessionStorage.setItem('forgeline.chat', {json.dumps(json.dumps(turns))})")
    page.open(url)
    page.wait("document.querySelectorAll('#turns > li').length === 100")
    ask(page, "One more")
    replied(page)
    assert page.see("JSON.parse(sessionStorage.getItem('forgeline.chat')).length") == 101
    page.click("#clear")
    assert page.see("sessionStorage.getItem('forgeline.chat')") == "[]"


def test_a_slow_network_is_told(browser: Browser, gateway: Stub, url: str) -> None:
    gateway.anonymous = True
    page = browser.page()
    page.network(latency=300, rate=50_000)
    page.open(url)
    page.wait_text("The page is loading…", "#main")
    page.wait_text("Nothing is asked yet", "#chat")
    assert page.text("#loading") == ""
    page.close()


def test_it_can_be_used_by_keyboard_alone(enter: Enter, gateway: Stub) -> None:
    page = enter("chat", "caller")
    page.see("document.activeElement.blur()")
    page.press("Tab")
    stops = [page.focused()]
    while not stops[-1].startswith(("nothing", "link Skip to the content")) or len(stops) == 1:
        page.press("Tab")
        stops.append(page.focused())
        assert len(stops) < 40, f"there is no way out: {stops}"
    assert stops[:3] == ["link Skip to the content", "link Chat", "button Access"]
    assert stops.index("combobox Model") < stops.index("combobox act") < stops.index("button Write the reply")
    while page.focused() != "textbox Value of name":
        page.press("Tab")
    page.type("alpha")
    page.press("Enter")
    replied(page)
