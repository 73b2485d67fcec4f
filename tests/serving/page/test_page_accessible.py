"""The page for those who cannot see it, cannot use a pointer, or hold a telephone; and how it looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import CTRL, Page
from page_stub import Stub, review, rollout

from forgeline.errors import SourceError
from forgeline.sources.resolve import resolve

Enter = Callable[..., Page]
PROJECT = Path(__file__).parents[3]
# axe-core 4.12.1 (MPL-2.0): one file of a published wheel; nothing is installed.
AXE = "pypi://axe-playwright-python==0.1.8/axe_playwright_python/axe.min.js#sha256=fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
RULES = "{ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }"
CONTROLS = {"button", "link", "textbox", "combobox", "checkbox", "radio", "DisclosureTriangle", "image", "region"}
VIEWS = ("chat", "reviews", "status")
DESK, PHONE = (1280, 800), (360, 740)
SHOTS = [("chat", DESK, "light"), ("chat", PHONE, "dark"), ("reviews", DESK, "light"), ("status", DESK, "dark")]


@pytest.fixture(scope="session")
def axe() -> str:
    try:
        return resolve(AXE, PROJECT)[0].read_text()
    except SourceError as fault:
        pytest.skip(f"axe-core is not here: {fault}")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures of this run lie: docs/images with FORGELINE_PICTURES=docs."""
    kept = os.environ.get("FORGELINE_PICTURES") == "docs"
    folder = PROJECT / "docs/images" if kept else tmp_path_factory.mktemp("pictures")
    print(f"\npictures of the page: {folder}")
    return folder


def filled(enter: Enter, gateway: Stub, view: str, width: int = 1280, height: int = 800) -> Page:
    """A view with all that it can show."""
    gateway.reviews = [
        review(2, reply="The Gonville Hotel is a 4 star hotel in the centre."),
        review(41, risk=3, why="queue", reply=""),
        review(3, mine=True, risk=0, why="sample"),
        review(7, risk=1),
    ]
    gateway.rollout = rollout()
    page = enter(view, "admin", width, height, haste=100)
    if view == "chat":
        page.click("#fill")
        page.click("#send")
        page.wait("document.querySelector('#turns .about') !== null")
        page.click("#turns button[aria-label='Bad reply']")
        page.wait_text("saved", "#turns")
        page.click("#turns .opinion label:nth-of-type(2) textarea")
        page.press("a", CTRL)
        page.type("The Gonville Hotel is a 3 star hotel in the centre, with free parking. Shall I book a room for you?")
        page.click("#system-turn summary")
    elif view == "reviews":
        page.wait_text("Approve", "#case")
        page.press("e")
        page.press("a", CTRL)
        page.type("The Gonville Hotel is a 3 star hotel in the centre of the city.")
    else:
        page.wait("document.querySelector('polyline.lost')?.getAttribute('points').split(' ').length > 20")
        page.click("#status-live")
        page.click("figure summary")
    return page


@pytest.mark.parametrize("view", VIEWS)
def test_everything_has_a_name_and_axe_finds_nothing(enter: Enter, gateway: Stub, axe: str, view: str) -> None:
    page = filled(enter, gateway, view)
    tree = page.tree()
    assert {"banner", "navigation", "main"} <= {node["role"]["value"] for node in tree}
    assert all(node["name"]["value"].strip() for node in tree if node["role"]["value"] in CONTROLS)
    page.see(f"{axe}; 0")
    for scheme, width in [("light", 1280), ("dark", 360)]:
        page.prefer(prefers_color_scheme=scheme)
        page.size(width, 800)
        found = page.see(
            f"axe.run({RULES}).then(({{ violations }}) => violations.flatMap(({{ id, nodes }}) =>"
            " nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`)))"
        )
        assert not found
        assert page.see("document.documentElement.scrollWidth") == width


def test_dialogs_take_the_focus_and_give_it_back(enter: Enter, gateway: Stub) -> None:
    page = filled(enter, gateway, "reviews")
    page.press("Escape")
    page.click("#key-open")
    assert page.focused() == "textbox Key"
    for _ in range(8):
        page.press("Tab")
        assert page.see("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    page.press("Escape")
    assert page.focused() == "button Access"


def test_another_view_takes_the_focus_to_its_content(enter: Enter, gateway: Stub) -> None:
    page = enter("chat")
    page.see("document.querySelector('nav a[href=\"#status\"]').focus()")
    page.press("Enter")
    page.wait_text("Traffic", "#board")
    assert page.see("document.activeElement.id") == "main"
    assert page.see("document.title") == "Status · reply-writer"


def test_nothing_moves_for_those_who_asked_for_that(enter: Enter, gateway: Stub) -> None:
    page = enter("chat")
    page.prefer(prefers_reduced_motion="reduce")
    gateway.answers = [["So far", gateway.go]]
    page.click("#fill")
    page.click("#send")
    page.wait_text("So far", "#turns .said")
    assert page.see("document.getAnimations().length") == 0
    page.prefer(prefers_reduced_motion="no-preference")
    page.wait("document.getAnimations().length === 1")


@pytest.mark.parametrize(("view", "size", "scheme"), SHOTS)
def test_how_it_looks(
    enter: Enter, gateway: Stub, pictures: Path, view: str, size: tuple[int, int], scheme: str
) -> None:
    page = filled(enter, gateway, view, *size)
    page.prefer(prefers_color_scheme=scheme)
    page.see("document.activeElement.blur()")
    if view == "chat":
        page.click("#system-turn summary")
    if view == "status":
        page.click("figure summary")
    page.see("scrollTo(0, 0); new Promise(requestAnimationFrame).then(() => 0)")
    path = page.picture(pictures / f"page-{view}-{'phone' if size == PHONE else 'desk'}-{scheme}.png")
    assert path.stat().st_size < 200_000
