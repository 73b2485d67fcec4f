"""Whole models: from nothing, with a tokenizer of the data, or every weight of a base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forgeline.config import Config, load
from forgeline.config.schema import Model, Scratch, Train
from forgeline.errors import ModelError
from forgeline.lineage import file_digest
from forgeline.models import encode_example, load_base, load_tuned, save_tuned
from forgeline.models.score import batch_loss, completion_losses, total_weight
from forgeline.records import read_records, write_jsonl
from forgeline.tuning import tune
from forgeline.tuning.scratch import new_model

PROJECT = Path(__file__).parents[2]
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def rows(count: int) -> list[dict]:
    return [
        {
            "id": f"row-{number}",
            "key": f"row-{number}",
            "messages": [
                {"role": "user", "content": f"act: Train-Inform\nref: {number}"},
                {"role": "assistant", "content": f"Your train is number {number}."},
            ],
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splits") / "train.jsonl"
    write_jsonl(path, rows(40))
    return path


@pytest.fixture(scope="module")
def settings() -> Train:
    shipped = load(PROJECT, overrides=["train.method=scratch", "train.dtype=float32"]).train
    return shipped.model_copy(update={"scratch": Scratch(settings=SMALL, vocabulary=400)})


def test_the_same_inputs_give_the_same_bytes(settings: Train, train: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        made = new_model(settings, train, PROJECT, seed)
        save_tuned(made.model, made.tokenizer, tmp_path / name)
    one, two, other = (
        {path.name: file_digest(path) for path in (tmp_path / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert one["tokenizer.json"] == other["tokenizer.json"]
    assert one["model.safetensors"] != other["model.safetensors"]


def test_the_tokenizer_knows_the_records_that_count_and_nothing_else(
    settings: Train, train: Path, tmp_path: Path
) -> None:
    tokenizer = new_model(settings, train, PROJECT, 3).tokenizer
    assert len(tokenizer) <= 400
    ids = tokenizer("Your train is number 38.")["input_ids"]
    assert tokenizer.decode(ids) == "Your train is number 38."
    assert tokenizer.convert_ids_to_tokens(ids) == ["Your", "Ġtrain", "Ġis", "Ġnumber", "Ġ", "3", "8", "."]
    few = settings.model_copy(update={"max_examples": 1})
    assert "Ġnumber" not in new_model(few, train, PROJECT, 3).tokenizer.get_vocab()  # seen once: no merge
    assert tokenizer.decode(tokenizer("wörld ✓")["input_ids"]) == "wörld ✓"  # bytes: nothing is unknown


def test_it_learns_saves_and_loads(settings: Train, train: Path, tmp_path: Path) -> None:
    made = new_model(settings, train, PROJECT, 3)
    examples = [encode_example(made.tokenizer, record) for record in read_records(train)][:16]
    assert all(example.completion[-1] == made.tokenizer.eos_token_id for example in examples)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = batch_loss(made.model, examples, total_weight(examples))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    save_tuned(made.model, made.tokenizer, tmp_path / "tuned")
    loaded = load_tuned(settings, tmp_path / "tuned", PROJECT)
    ids = torch.tensor([examples[0].prompt])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, made.model(ids).logits)
    assert loaded.vocabulary == made.vocabulary
    assert loaded.stop_ids == made.stop_ids == [made.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("scratch", "says"),
    [
        ({"architecture": "lama"}, r"architecture: lama is no causal language model. transformers holds .*llama"),
        ({"architecture": "t5"}, r"architecture: t5 is no causal language model"),
        ({"settings": {"hiden_size": 64}}, r"settings.hiden_size is no setting of a llama. llama holds hidden_size"),
        ({"settings": {"vocab_size": 64}}, r"settings.vocab_size is no setting of a llama"),
        ({"settings": SMALL | {"hidden_size": "wide"}}, r"do not make a llama: .*'hidden_size' expected int, got str"),
        ({"settings": SMALL | {"hidden_size": 66}}, r"hidden size \(66\) is not a multiple"),
        ({"settings": SMALL | {"num_key_value_heads": 3}}, r"do not make a llama: "),
        ({"chat_template": "configs/templates/none.jinja"}, r"none.jinja does not exist"),
    ],
)
def test_what_cannot_be_made_is_told(settings: Train, train: Path, scratch: dict, says: str) -> None:
    wrong = settings.model_copy(update={"scratch": Scratch(**({"settings": SMALL} | scratch))})
    with pytest.raises(ModelError, match=says):
        new_model(wrong, train, PROJECT, 3)


@pytest.mark.parametrize("method", ["full", "scratch"])
def test_a_whole_model_is_tuned_and_needs_no_base_from_then_on(
    tiny: Config, settings: Train, train: Path, tmp_path: Path, method: str
) -> None:
    wanted = {"method": method, "scratch": settings.scratch, "batch_size": 8, "checkpoint_steps": 2}
    config = tiny.train.model_copy(update=wanted)
    curve: list[float] = []
    run = tune(
        config, train, train, tmp_path, seed=3, root=PROJECT, log=lambda values, _: curve.append(values.get("loss", 0))
    )
    losses = [loss for loss in curve if loss]
    assert run.steps == len(losses) == 5 and losses[-1] < losses[0]
    gone = config.model_copy(update={"model": Model(source="gone", license="none")})
    loaded = load_tuned(gone, Path(run.path), PROJECT)
    examples = [encode_example(loaded.tokenizer, record) for record in read_records(train)]
    nats, tokens = map(sum, zip(*completion_losses(loaded.model, examples), strict=True))
    assert nats / tokens == pytest.approx(run.validation_loss, rel=1e-4)
    base = load_base(tiny.train, PROJECT)
    assert (loaded.vocabulary == base.vocabulary) == (method == "full")
