"""An engine in a process of its own: the gateway's protocol over loopback, logprobs with it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from scene import HELLO, LINEAGE, PROMPTS, free_port, wait_for

from forgeline.models import LanguageModel
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.engines.transformers import answer
from forgeline.serving.smoke import smoke

MODEL = LINEAGE["model"]


@pytest.fixture(scope="module")
def process(bundle: Path, root: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    settings, port = root / "engine.serve.json", free_port()
    settings.write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", "forgeline.serving.engines.server", "--bundle", str(bundle)]
    with subprocess.Popen([*command, "--settings", str(settings), "--port", str(port)], cwd=root) as started:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: started.poll() is not None or _is_ready(url), seconds=240)
        assert started.poll() is None
        yield started, url
        started.kill()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=5) as answered:  # noqa: S310
            return bool(json.load(answered)["status"] == "ready")
    except HTTPError as loading:
        assert json.load(loading)["error"]["code"] == "loading"
        return False
    except OSError:
        return False


def test_it_answers_as_the_bundle_does_and_drains(
    process: tuple[subprocess.Popen[bytes], str], model: LanguageModel
) -> None:
    server, url = process
    said = [answer(model, GenerationRequest(prompt, max_tokens=8, temperature=0)) for prompt in PROMPTS]
    expected = ["".join(piece.text for piece in pieces) for pieces in said]
    smoke(url, MODEL, PROMPTS, max_tokens=8, expected=expected)
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    question: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 6, "temperature": 0}

    whole = client.chat.completions.create(**question, logprobs=True, top_logprobs=2).choices[0]
    assert whole.logprobs and whole.logprobs.content
    assert whole.message.content == "".join(token.token for token in whole.logprobs.content)
    for token in whole.logprobs.content:
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert math.exp(token.logprob) <= 1
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = list(client.chat.completions.create(**question, logprobs=True, top_logprobs=2, stream=True))
    streamed = [part.choices[0].logprobs for part in chunks if part.choices[0].logprobs]
    again = [token for part in streamed for token in part.content or []]
    assert [token.token for token in again] == [token.token for token in whole.logprobs.content]
    likelihoods = [token.logprob for token in whole.logprobs.content]
    assert [token.logprob for token in again] == pytest.approx(
        likelihoods, abs=1e-4
    )  # read in other parts: rounding may tell
    assert client.chat.completions.create(**question).choices[0].logprobs is None
    with pytest.raises(BadRequestError, match="top_logprobs needs logprobs"):
        client.chat.completions.create(**question, top_logprobs=2)
    with pytest.raises(BadRequestError, match="less than or equal to 20"):
        client.chat.completions.create(**question, logprobs=True, top_logprobs=21)
    with pytest.raises(NotFoundError, match="this server serves `reply-writer`"):
        client.chat.completions.create(**question | {"model": "another"})
    with pytest.raises(BadRequestError, match="the model holds 4096 in all"):
        client.chat.completions.create(**question | {"max_tokens": 5000})

    stream = client.chat.completions.create(**question | {"max_tokens": 60}, stream=True)
    next(stream)
    os.kill(server.pid, signal.SIGTERM)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] in ("length", "stop")
    assert server.wait(60) == 0
