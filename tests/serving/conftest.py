"""Real bundles of a tiny model with the real tokenizer: quick, and everything but the weights is real."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import LINEAGE, PROJECT, free_port, make_adapter, running

from forgeline.config import Config, load
from forgeline.models import LanguageModel, base_folder, load_tuned
from forgeline.serving import bundle as bundles


@pytest.fixture(scope="session")
def real_config() -> Config:
    return load(PROJECT)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, real_config: Config) -> Path:
    """A project folder whose base model is a tiny random Llama with the real tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("project")
    tokenizer = AutoTokenizer.from_pretrained(base_folder(real_config.train.model, PROJECT))
    torch.manual_seed(5)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            initializer_range=0.2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="session")
def config(root: Path, real_config: Config) -> Config:
    """The shipped configuration, but for the tiny base model and a free port."""
    train = real_config.train.model_dump() | {"model": {"source": "base", "license": "none"}, "dtype": "float32"}
    guards = {"toxicity": {"action": "off"}}  # a random model may say anything
    own = {
        "guards": guards,
        "port": free_port(),
        "store": f"sqlite:///{root}/gateway.db",
        "access": {"anonymous": ["admin"]},
    }
    serve = real_config.serve.model_dump() | own | {"drain_timeout": 20}
    return Config.model_validate({**real_config.model_dump(), "root": root, "train": train, "serve": serve})


@pytest.fixture(scope="session")
def adapter(root: Path) -> Path:
    return make_adapter(root / "base", root / "adapter", seed=1)


@pytest.fixture(scope="session")
def other_adapter(root: Path) -> Path:
    return make_adapter(root / "base", root / "other-adapter", seed=2)


@pytest.fixture(scope="session")
def bundle(config: Config, adapter: Path) -> Path:
    return bundles.build(config, adapter, LINEAGE, config.root / "bundles")


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own to damage."""
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    for path in copy.rglob("*"):
        path.chmod(0o755)
    return copy


@pytest.fixture(scope="session")
def model(config: Config, adapter: Path) -> LanguageModel:
    """The model as training leaves it."""
    return load_tuned(config.train, adapter, config.root)


@pytest.fixture(scope="module")
def url(bundle: Path, root: Path) -> Iterator[str]:
    with running(bundle, root) as address:
        yield address
