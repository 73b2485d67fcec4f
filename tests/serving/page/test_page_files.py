"""The page's files as they are served, and what the page is told of the use case."""

from __future__ import annotations

import gzip
import re
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_stub import Stub

from forgeline.config import load
from forgeline.page.style import PALETTE
from forgeline.records import Record
from forgeline.serving.gateway.web import page

PROJECT = Path(__file__).parents[3]
ASSETS = files("forgeline.serving.gateway.web") / "assets"


def get(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    answered = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return answered


def test_files_come_once_and_only_when_they_changed(url: str) -> None:
    status, headers, body = get(url, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert get(url, "/", **{"If-None-Match": headers["etag"]})[::2] == (304, b"")
    assert get(url, "/", "HEAD")[::2] == (200, b"")
    status, packed, small = get(url, "/", **{"Accept-Encoding": "gzip"})
    assert gzip.decompress(small) == body and packed["etag"] != headers["etag"]
    assert PALETTE.encode() == get(url, "/assets/palette.css")[2]


def test_the_page_may_run_nothing_but_its_own_files(url: str) -> None:
    _, headers, body = get(url, "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=\"/assets/)", body.decode())
    for file in ASSETS.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?://|(inner|outer)HTML|insertAdjacent|document\.write|\beval\(|localStorage", text)
        assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("path", ["nothing.js", "..%2f__init__.py", "%2e%2e/settings.py", "../__init__.py"])
def test_nothing_else_is_served(url: str, path: str) -> None:
    status, _, body = get(url, f"/assets/{path}")
    assert status == 404 and b"import" not in body


def test_the_settings_are_for_those_with_a_key(url: str, gateway: Stub) -> None:
    assert get(url, "/page/settings")[0] == 401
    assert b'"roles":["reviewer"]' in get(url, "/page/settings", Authorization="Bearer reviewer")[2]


def record(*prompt: str) -> Record:
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(prompt)]
    turns.append({"role": "assistant", "content": "Yes."})
    return Record.model_validate({"id": "1", "key": "1", "messages": turns})


def test_forms_are_read_off_the_training_prompts() -> None:
    prompts = ["act: Ask\nday", "act: Ask\nday\ntime: 9", "act: Say\nname: a\nname: b", "act: Say\nname: a\nprice: 3"]
    told = page(load(PROJECT), [record(prompt) for prompt in prompts])
    ask, say = told.forms
    assert (told.title, told.kind, told.conversation) == ("reply-writer", "act", False)
    assert (ask.value, ask.slots, ask.bare) == ("Ask", ["day", "time"], ["day"])
    assert ask.example == [("day", ""), ("time", "9")]
    assert (say.slots, say.bare, say.example) == (["name", "price"], [], [("name", "a"), ("price", "3")])


NOT_ALIKE = [[], ["When do you open?"], ["act: Ask", "ask: Act"], ["act: Ask", "act"], ["act: Ask\n\nday"]]


@pytest.mark.parametrize("prompts", NOT_ALIKE)
def test_other_prompts_have_no_form(prompts: list[str]) -> None:
    told = page(load(PROJECT), [record(prompt) for prompt in prompts])
    assert told.kind is None and not told.forms


def test_earlier_turns_are_sent_to_a_model_that_was_trained_with_them() -> None:
    assert page(load(PROJECT), [record("Hello", "Hello!", "And now?")]).conversation
