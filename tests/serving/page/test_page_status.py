"""The status, by an operator in a real browser."""

from __future__ import annotations

from collections.abc import Callable

from browser import Page
from page_stub import Stub, rollout
from scene import wait_for

from forgeline.serving.gateway.protocol import ApiError

Enter = Callable[..., Page]


def test_an_operator_sees_how_the_gateway_does(enter: Enter, gateway: Stub) -> None:
    page = enter("status", "operator")
    page.wait_text("Traffic", "#board")
    shown = page.text("#board")
    for words in ("requests in 5 minutes", "220 ms", "€0.1234", "The endpoint cannot be reached.", "rate_limited",
                  "pii:mask", "9f2c41d07be81a55", "8 of 1310", "not behind", "key-desk"):  # fmt: skip
        assert words in shown, words
    pictures = [node["name"]["value"] for node in page.tree() if node["role"]["value"] == "image"]
    assert pictures[0].startswith("Traffic, requests per minute. requests: now ")
    assert pictures[1].startswith("Latency, seconds, over 5 minutes. ")
    assert "median: now 0.22, least 0.22, most 0.22." in pictures[1]
    axis = page.see("[...document.querySelectorAll('figure:first-child svg .end')].map((one) => one.textContent)")
    assert axis[:5] == ["0", "10", "20", "30", "40"]


def test_a_chart_has_its_numbers_as_a_table_that_stays_open(enter: Enter, gateway: Stub) -> None:
    page = enter("status", "operator")
    page.click("figure summary")
    before = page.text("figure table").splitlines()
    assert len(before) == 61
    page.see("document.querySelector('figure .wide').scrollTop = 0")
    page.see("dispatchEvent(new Event('resize'))")  # draws anew
    assert page.see("document.querySelector('figure details').open")
    assert page.focused() == "DisclosureTriangle As a table"


def test_it_is_asked_for_again_while_somebody_looks(enter: Enter, gateway: Stub) -> None:
    page = enter("status", "admin", haste=100)
    wait_for(lambda: gateway.status_calls > 3)
    page.wait("document.querySelector('polyline.lost') !== null")  # latencies become a line
    page.click("#status-live")
    page.wait_text("Traffic", "#board")
    calls = gateway.status_calls
    page.see("new Promise((done) => setTimeout(done, 300))")  # six times the interval
    assert gateway.status_calls <= calls + 1
    page.click("#status-live")
    page.network(offline=True)
    page.wait_text("What is shown is not of now.", "#notice")
    assert "Traffic" in page.text("#board")


def test_an_operator_promotes_a_version_and_takes_it_back(enter: Enter, gateway: Stub) -> None:
    gateway.rollout = rollout()
    page = enter("status", "operator")
    page.wait_text("version 4 on transformers", "#rollout")
    shown = page.text("#rollout")
    for words in ("running", "canary, 10 %", "clearer replies (key-operator)", "1 of 46", "it is aborted at 20"):
        assert words in shown, words
    page.click("#rollout-promote")
    assert gateway.decided == []  # not without a reason
    page.click("#rollout-reason")
    page.type("measured better")
    gateway.refusals["promote"] = ApiError(409, "Version 4 is not ready: it cannot be promoted.", "not_ready")
    page.click("#rollout-promote")
    page.wait_text("Version 4 is not ready", "#notice")
    page.click("#rollout-promote")
    page.wait_text("still loaded", "#rollout")
    assert gateway.decided[-1] == ("rollout", "promote", {"reason": "measured better"})
    assert page.see("document.getElementById('rollout-promote').hidden")
    page.click("#rollout-reason")
    page.type("after all")
    page.click("#rollout-rollback")
    page.wait_text("rolled back", "#rollout")
    assert gateway.decided[-1] == ("rollout", "rollback", {"reason": "after all"})
