"""What is expensive and shared: the real base model, a project copy, and one finished smoke run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported

from forgeline.config import Config, load
from forgeline.models import LanguageModel, base_folder, load_base

PROJECT = Path(__file__).parent.parent
logging.getLogger("forgeline").setLevel(logging.WARNING)  # wherever ZenML sets the root's, at its first import
LINE = ("tests/cli/test_markdown.py", "tests/docs/test_notebook.py", "tests/pipelines/")  # where smoke_project is used


class ByFile(LoadScopeScheduling):
    """The tests of a file go to one worker, and all that stand on the finished run to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        return "line" if nodeid.startswith(LINE) else nodeid.split("::", maxsplit=1)[0]


@pytest.hookimpl(optionalhook=True)  # a run with -p no:xdist has no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Deal tests out to the workers."""
    return ByFile(config, log)


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own, with a ZenML store and a port of its own."""

    root: Path
    env: dict[str, str]
    port: int

    def run(self, *command: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder."""
        options = {"cwd": self.root, "env": self.env, "timeout": timeout}
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    def forgeline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `forgeline` in the project's folder."""
        return self.run(sys.executable, "-c", "from forgeline.cli import main; main()", *arguments)

    def served(self) -> dict[str, str]:
        """Return what the running server says of itself; fail if it is not ready."""
        address = f"http://127.0.0.1:{self.port}/readyz"
        asked = urllib.request.Request(address, headers={"authorization": f"Bearer {self.key()}"})
        with urllib.request.urlopen(asked, timeout=30) as response:  # noqa: S310
            return json.load(response)

    def key(self) -> str:
        """Return the key that the deployment made for this machine's owner."""
        return (self.root / ".forgeline/keys/local").read_text().strip()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def copy_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Project]:
    """Return a function that copies the tracked files into a new folder."""
    zenml_store = tmp_path_factory.mktemp("zenml")

    def copy() -> Project:
        root = tmp_path_factory.mktemp("project")
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (PROJECT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, root / name)
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)  # DVC wants a repository
        port = free_port()
        serve = (root / "configs/serve.yaml").read_text()
        (root / "configs/serve.yaml").write_text(serve.replace("port: 8600", f"port: {port}"))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return Project(root, {**os.environ, "PATH": path, "ZENML_CONFIG_PATH": str(zenml_store)}, port)

    return copy


@pytest.fixture(scope="session")
def smoke_project(copy_project: Callable[[], Project]) -> Iterator[Project]:
    """A project where the whole line has run with the smoke profile, and its server is up."""
    project = copy_project()
    finished = project.forgeline("run", "--profile", "smoke", "--json")
    (project.root / "run.json").write_text(finished.stdout)
    assert finished.returncode == 0, finished.stderr
    yield project
    project.forgeline("stop")


@pytest.fixture(scope="session")
def config() -> Config:
    """The shipped configuration in float32, in which equivalences hold to rounding."""
    return load(PROJECT, overrides=["train.dtype=float32"])


@pytest.fixture(scope="session")
def base(config: Config) -> LanguageModel:
    """The real base model in float32."""
    return load_base(config.train, PROJECT)


@pytest.fixture(scope="session")
def tiny_model(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random llama of 3 million weights with the real tokenizer: a step takes milliseconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(base_folder(config.train.model, PROJECT))
    torch.manual_seed(11)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Config:
    """The configuration with the tiny model as its base, in float32."""
    return load(PROJECT, overrides=["train.dtype=float32", f"train.model.source={tiny_model}"])
