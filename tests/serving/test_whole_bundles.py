"""Bundles of whole models, which need no base, and of adapters beside a base of few bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from scene import LINEAGE, PROMPTS, running

from forgeline.config import Config
from forgeline.errors import ServingError
from forgeline.models import load_base, load_tuned, save_tuned
from forgeline.serving.bundle import build, verify
from forgeline.serving.parity import check
from forgeline.serving.smoke import smoke


def with_train(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model with one of its weights changed, saved as full fine-tuning does."""
    base = load_base(config.train, config.root)
    base.model.get_output_embeddings().weight.data.mul_(1.5)
    folder = tmp_path_factory.mktemp("run") / "tuned"
    save_tuned(base.model, base.tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(config: Config, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(with_train(config, method="full"), whole, LINEAGE, tmp_path_factory.mktemp("bundles"))


def test_a_whole_model_is_served_without_its_base(config: Config, whole: Path, bundle: Path, tmp_path: Path) -> None:
    manifest = verify(bundle)
    assert (manifest.base, manifest.base_digest) == (config.train.model, None)
    assert not any(str(config.root) in path.read_text() for path in bundle.rglob("*.json"))
    reference = load_tuned(config.train, whole, tmp_path)
    report = check(reference, bundle, tmp_path, PROMPTS, tolerance=0, max_tokens=8)
    base = load_base(config.train, config.root)
    with pytest.raises(ServingError, match="not the model that was evaluated"):
        check(base, bundle, tmp_path, PROMPTS, tolerance=1e-3, max_tokens=8)
    with running(bundle, tmp_path) as url:
        smoke(url, LINEAGE["model"], PROMPTS, 8, report.replies)


def test_the_same_model_is_the_same_bundle(config: Config, whole: Path, bundle: Path) -> None:
    assert build(with_train(config, method="full"), whole, LINEAGE, bundle.parent) == bundle


def test_a_model_from_scratch_names_no_base(config: Config, whole: Path, tmp_path: Path) -> None:
    assert verify(build(with_train(config, method="scratch"), whole, LINEAGE, tmp_path)).base is None


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled code"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\*\.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), r"chat_template\.jinja is missing"),
    ],
)
def test_an_incomplete_model_is_refused(config: Config, whole: Path, tmp_path: Path, damage: Any, says: str) -> None:
    damage(shutil.copytree(whole, tmp_path / "tuned"))
    with pytest.raises(ServingError, match=says):
        build(with_train(config, method="full"), tmp_path / "tuned", LINEAGE, tmp_path / "bundles")


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_base_of_few_bits_is_quantised_again_where_it_is_served(
    config: Config, adapter: Path, tmp_path: Path, bits: str
) -> None:
    quantised = with_train(config, method="qlora", quantization=bits)
    built = build(quantised, adapter, LINEAGE, tmp_path)
    assert (verify(built).method, verify(built).quantization) == ("qlora", bits)
    reference = load_tuned(quantised.train, adapter, config.root)
    check(reference, built, config.root, PROMPTS, tolerance=0, max_tokens=4)
    exact = load_tuned(config.train, adapter, config.root)
    with pytest.raises(ServingError, match="the logits differ by"):
        check(exact, built, config.root, PROMPTS, tolerance=1e-6, max_tokens=4)
