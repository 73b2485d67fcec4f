"""Whatever form a model has, the same command evaluates it, and finds the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from scene import HELLO, PROMPTS

from forgeline.config import Config
from forgeline.errors import EvaluationError, ForgelineError, RegistryError
from forgeline.evaluation.subjects import Endpoint
from forgeline.models import LanguageModel, save_tuned
from forgeline.records import Message, Record
from forgeline.serving.subjects import subject

HANGS_AFTER = 2


@pytest.fixture(scope="module")
def merged(model: LanguageModel, root: Path) -> Path:
    save_tuned(model.model, model.tokenizer, root / "merged")
    return root / "merged"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The URL of a service that answers two requests and no more."""
    over = threading.Event()
    answered = 0

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal answered
            answered += 1
            if answered > HANGS_AFTER:
                over.wait(30)
                return
            message = {"role": "assistant", "content": "Hello"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        over.set()
        server.shutdown()


def test_every_form_of_a_model_says_the_same(
    config: Config, adapter: Path, bundle: Path, merged: Path, url: str, root: Path
) -> None:
    names = [str(path.relative_to(root)) for path in (adapter, bundle, merged)]
    forms = [*names, f"base+{names[0]}", f"{url}/v1", f"{url}/v1#reply-writer"]
    found = {name: subject(config, name) for name in forms}
    said = {name: [reply.text for reply in each.replies(PROMPTS, 8)] for name, each in found.items()}
    assert all(texts == said[names[0]] for texts in said.values()) and all(said[names[0]])
    assert subject(config, "base").replies(PROMPTS, 8)[0].text != said[names[0]][0]


def test_a_url_tells_no_likelihood(config: Config, url: str) -> None:
    records = [Record(id="1", key="1", messages=[Message(**HELLO[0]), Message(role="assistant", content="Hi")])]
    assert subject(config, f"{url}/v1").losses(records) is None
    assert [tokens > 0 for _, tokens in subject(config, "base").losses(records) or []] == [True]


def test_half_an_evaluation_is_none(hanging: str) -> None:
    asked = [HELLO] * 4
    with pytest.raises(EvaluationError, match=r"did not answer test prompt 3 of 4 .* nothing was scored"):
        Endpoint("url", hanging, "m", timeout=0.3).replies(asked, 8)


def test_what_is_not_there_is_told(config: Config) -> None:
    with pytest.raises(EvaluationError, match="give the base URL of an OpenAI-compatible service"):
        subject(config, "http://127.0.0.1:9/v1")
    with pytest.raises(ForgelineError, match="nowhere/model"):
        subject(config, "nowhere/model")
    with pytest.raises(RegistryError, match="no version or alias 'chmpion'"):
        subject(config.model_copy(update={"project": _elsewhere(config)}), "chmpion")


def _elsewhere(config: Config) -> Any:
    stores = config.project.stores.model_copy(update={"mlflow": f"sqlite:///{config.root}/mlflow.db"})
    return config.project.model_copy(update={"stores": stores})
