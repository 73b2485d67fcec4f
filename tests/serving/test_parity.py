from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scene import PROMPTS

from forgeline.config import Config
from forgeline.errors import ServingError
from forgeline.models import LanguageModel, load_tuned
from forgeline.serving.parity import check


def test_a_bundle_repeats_the_training_side_model(model: LanguageModel, bundle: Path, root: Path) -> None:
    report = check(model, bundle, root, PROMPTS, tolerance=0, max_tokens=16)
    assert [found.logit_difference for found in report.comparisons] == [0, 0]
    assert all(report.replies)


def test_another_adapter_is_told_apart(config: Config, other_adapter: Path, bundle: Path) -> None:
    other = load_tuned(config.train, other_adapter, config.root)
    with pytest.raises(ServingError, match=r"parity prompt 1 of 2 the logits differ by \d"):
        check(other, bundle, config.root, PROMPTS, tolerance=1e-3, max_tokens=4)


def test_another_chat_template_is_told_apart(model: LanguageModel, bundle: Path, root: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "base")
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "robot")
    with pytest.raises(ServingError, match="not the model that was evaluated"):
        check(replace(model, tokenizer=tokenizer), bundle, root, PROMPTS, tolerance=1e-3, max_tokens=4)
