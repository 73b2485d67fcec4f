"""What several serving tests share: constants, random adapters, a gateway in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forgeline.config.schema import Serve
from forgeline.serving import bundle as bundles

PROJECT = Path(__file__).parents[2]
LINEAGE = {
    "model": "reply-writer",
    "version": "3",
    "mlflow_run": "run-1",
    "zenml_run": "run-2",
    "data_digest": "d" * 64,
    "git_revision": "0" * 40,
    "config_digest": "c" * 64,
}
HELLO = [{"role": "user", "content": "Hello there"}]
PROMPTS = [HELLO, [{"role": "system", "content": "You write replies."}, {"role": "user", "content": "Book a table"}]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """Write a random LoRA adapter the way tuning does: adapter, tokenizer and chat template in one folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return what `condition` gives as soon as it is true; fail after a bound."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not true after {seconds} s"
        time.sleep(0.02)
    return value


@contextmanager
def running(bundle: Path, root: Path, **limits: Any) -> Iterator[str]:
    """Serve a bundle in a thread of this process and yield its URL."""
    import uvicorn

    from forgeline.serving.engines import Engine
    from forgeline.serving.engines.embedded import Embedded
    from forgeline.serving.engines.transformers import Rows
    from forgeline.serving.gateway.app import create_app
    from forgeline.serving.gateway.web import stored_page
    from forgeline.serving.sockets import listen

    manifest = bundles.verify(bundle)
    store = f"sqlite:///{root}/gateway-{free_port()}.db"
    settings = {"port": free_port(), "store": store, "access": {"anonymous": ["admin"]}, "limits": limits}
    serve = Serve.model_validate(settings)
    engines: dict[str, Engine] = {"engine": Embedded("transformers", Rows(bundle, root))}
    app = create_app(engines, manifest, serve, root, stored_page(bundle, manifest.lineage.model))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    listener = listen(serve.host, serve.port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: app.state.arms.live.engine.ready)
        yield f"http://{serve.host}:{serve.port}"
    finally:
        server.should_exit = True
        thread.join()
