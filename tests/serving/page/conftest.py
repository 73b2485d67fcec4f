"""One browser and one scripted gateway for all tests of the page; a page of its own for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
from browser import CHROMIUM, Browser, Page
from page_stub import Stub, running

Enter = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[str, Stub]]:
    with running() as site:
        yield site


@pytest.fixture
def url(served: tuple[str, Stub]) -> str:
    return served[0]


@pytest.fixture
def gateway(served: tuple[str, Stub]) -> Iterator[Stub]:
    """The scripted gateway, with nothing scripted."""
    stub, fresh = served[1], Stub()
    for field in fields(Stub):
        setattr(stub, field.name, getattr(fresh, field.name))
    yield stub
    stub.go.set()


@pytest.fixture
def enter(browser: Browser, gateway: Stub, url: str) -> Iterator[Enter]:
    """Open a view with a role's key; whatever the browser complained of fails the test."""
    pages = []

    def enter(view: str, role: str = "admin", width: int = 1280, height: int = 800, haste: int = 1) -> Page:
        page = browser.page(width, height)
        pages.append(page)
        page.hasten(haste)
        page.open(f"{url}/#{view}")
        page.wait("document.getElementById('key-dialog').open")
        page.type(role)
        page.press("Enter")
        known = "document.getElementById('title').textContent === 'reply-writer'"
        page.wait(f"{known} || document.getElementById('key-why').textContent.includes('does not know')")
        return page

    yield enter
    complaints = [said for page in pages for said in page.complaints()]
    for page in pages:
        page.close()
    assert not complaints
