from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI, RateLimitError
from scene import HELLO, LINEAGE, PROMPTS, running, wait_for

from forgeline.errors import ServingError
from forgeline.models import LanguageModel
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.engines.transformers import answer
from forgeline.serving.smoke import smoke

MODEL = "reply-writer"
LONG = {"model": MODEL, "messages": HELLO, "max_tokens": 4000, "temperature": 1.0, "seed": 3}

TOKENS = f'forgeline_tokens_total{{direction="completion",model="{MODEL}"}}'
LONE_SURROGATE = json.dumps({"model": "\ud800", "messages": HELLO})


def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def call(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=30)
    raw = body if isinstance(body, str | bytes | None) else json.dumps(body)
    connection.request(method, path, raw, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    answered = response.status, {key.lower(): value for key, value in response.getheaders()}, response.read().decode()
    connection.close()
    return answered


def metric(url: str, line: str) -> float:
    lines = call(url, "GET", "/metrics")[2].splitlines()
    return next((float(text.rsplit(" ", 1)[1]) for text in lines if text.startswith(line)), 0)


def test_models_lists_the_served_one(url: str) -> None:
    assert [model.id for model in client(url).models.list()] == [MODEL]


def test_a_completion_is_what_the_bundle_says(url: str, model: LanguageModel) -> None:
    completion = client(url).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12, temperature=0)  # type: ignore[arg-type]
    pieces = list(answer(model, GenerationRequest(HELLO, max_tokens=12, temperature=0)))
    assert completion.choices[0].message.content == "".join(piece.text for piece in pieces)
    assert completion.choices[0].finish_reason == pieces[-1].finish_reason
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == pieces[-1].usage.prompt_tokens
    assert completion.usage.completion_tokens == pieces[-1].usage.completion_tokens


def test_a_stream_brings_the_same_text_and_its_usage(url: str) -> None:
    question: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 12}
    whole = client(url).chat.completions.create(**question)
    chunks = list(client(url).chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_conversation_goes_on_with_the_reply_as_it_came(url: str) -> None:
    first = client(url).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4)  # type: ignore[arg-type]
    messages: list[Any] = [*HELLO, first.choices[0].message, {"role": "user", "content": "And then?"}]
    assert client(url).chat.completions.create(model=MODEL, messages=messages, max_tokens=2).usage


def test_the_smoke_test_passes_and_tells_another_model_apart(url: str) -> None:
    report = smoke(url, MODEL, PROMPTS, max_tokens=6)
    assert report.completion_tokens > 0
    smoke(url, MODEL, PROMPTS, max_tokens=6, expected=report.replies)
    with pytest.raises(ServingError, match="to smoke prompt 2 it says"):
        smoke(url, MODEL, PROMPTS, max_tokens=6, expected=[report.replies[0], "something else"])
    with pytest.raises(ServingError, match="serves reply-writer, not another"):
        smoke(url, "another", PROMPTS, max_tokens=6)


def test_probes_and_lineage_headers(url: str, bundle: Path) -> None:
    status, headers, body = call(url, "GET", "/readyz")
    assert (status, json.loads(body)["data_digest"]) == (200, LINEAGE["data_digest"])
    assert headers["x-forgeline-bundle"] == bundle.name
    assert headers["x-forgeline-version"] == LINEAGE["version"]
    assert call(url, "GET", "/healthz")[0] == 200


def test_request_ids_are_kept_if_they_are_sane(url: str) -> None:
    assert call(url, "GET", "/healthz", **{"x-request-id": "mine-1"})[1]["x-request-id"] == "mine-1"
    assert len(call(url, "GET", "/healthz", **{"x-request-id": "a b;c"})[1]["x-request-id"]) == 32


def test_metrics_count_requests_and_tokens(url: str) -> None:
    line = 'forgeline_requests_total{route="/v1/chat/completions",status="200"}'
    requests, tokens = metric(url, line), metric(url, TOKENS)
    usage = client(url).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5).usage  # type: ignore[arg-type]
    assert usage is not None
    assert metric(url, line) == requests + 1
    assert metric(url, TOKENS) == tokens + usage.completion_tokens
    assert metric(url, "forgeline_first_token_seconds_count") >= 1
    assert metric(url, "forgeline_queue_depth") == 0


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 100_000}, "messages", "context_or_template"),
        ({"n": 2}, "n", "invalid_value"),
        ({"tools": []}, "tools", "unsupported_parameter"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ],
)
def test_a_bad_request_is_refused_in_openai_shape(url: str, change: dict[str, Any], param: str, code: str) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2} | change
    status, _, text = call(url, "POST", "/v1/chat/completions", body)
    error = json.loads(text)["error"]
    assert status == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"].startswith(param)
    assert error["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "[" * 100_000, "1" * 5_000, b"\xff\xfe", LONE_SURROGATE])
def test_what_is_not_a_request_is_a_400(url: str, body: str | bytes) -> None:
    status, _, text = call(url, "POST", "/v1/chat/completions", body)
    assert status == 400
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_errors_reach_the_official_client_as_its_own(url: str) -> None:
    with pytest.raises(NotFoundError, match="this server serves `reply-writer`") as unknown:
        client(url).chat.completions.create(model="gpt", messages=HELLO)  # type: ignore[arg-type]
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError, match="`tools` is not supported"):
        client(url).chat.completions.create(model=MODEL, messages=HELLO, tools=[])  # type: ignore[arg-type]
    assert json.loads(call(url, "GET", "/nowhere")[2])["error"]["message"] == "Not Found"
    assert call(url, "GET", "/v1/chat/completions")[0] == 405


def test_a_large_body_is_refused_whether_or_not_it_says_so(url: str) -> None:
    assert call(url, "POST", "/v1/chat/completions", "x" * 1_000_001)[0] == 413
    port = urlsplit(url).port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        raw.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(11):
            raw.sendall(b"186A0\r\n" + b"x" * 100_000 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_prompt_that_fits_a_small_key_is_taken_and_counted(bundle: Path, root: Path) -> None:
    question: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    prompt = "The hotel is in the north of the town and has free parking. " * 12
    with running(bundle, root, per_key={"tokens_per_minute": 300}) as url:
        fits = client(url).chat.completions.with_raw_response.create(
            messages=[{"role": "user", "content": prompt}], **question
        )
        usage = fits.parse().usage
        assert usage is not None and usage.total_tokens < 300 < len(prompt)
        left = call(url, "POST", "/v1/chat/completions", {"messages": HELLO, **question})[1]
        assert int(left["x-ratelimit-remaining-tokens"]) > 300 - usage.total_tokens - 60
        with pytest.raises(BadRequestError) as never:
            client(url).chat.completions.create(messages=[{"role": "user", "content": prompt * 2}], **question)
        assert never.value.code == "tokens_exceed_limit"


@pytest.fixture(scope="module")
def narrow(bundle: Path, root: Path) -> Iterator[str]:
    """A gateway where one request may wait, and none for long."""
    with running(bundle, root, concurrency=1, max_queue=1, request_timeout=1.5) as url:
        yield url


def test_a_full_queue_and_a_late_reply(narrow: str) -> None:
    stream = client(narrow).chat.completions.create(**LONG, stream=True)  # type: ignore[call-overload]
    next(stream)
    faults: list[APIStatusError] = []

    def wait_in_line() -> None:
        try:
            client(narrow).chat.completions.create(**LONG)  # type: ignore[call-overload]
        except APIStatusError as fault:
            faults.append(fault)

    waiting = threading.Thread(target=wait_in_line)
    waiting.start()
    wait_for(lambda: metric(narrow, "forgeline_waiting_requests") == 1)
    with pytest.raises(RateLimitError) as full:
        client(narrow).chat.completions.create(**LONG)  # type: ignore[call-overload]
    assert full.value.code == "queue_full"
    assert 1 <= int(full.value.response.headers["retry-after"]) <= 30
    with pytest.raises(Exception, match=r"did not answer in time|took longer than"):
        list(stream)
    waiting.join()
    assert [(fault.status_code, fault.code) for fault in faults] == [(504, "timeout")]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(url: str, stream: bool) -> None:
    before = metric(url, TOKENS)
    raw = socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=30)
    body = json.dumps({**LONG, "stream": stream})
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    wait_for(lambda: metric(url, TOKENS) > before)
    raw.close()
    smoke(url, MODEL, PROMPTS[:1], max_tokens=2)
    assert metric(url, TOKENS) < before + 2000
