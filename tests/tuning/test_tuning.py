import copy
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from forgeline.config import load
from forgeline.errors import DataError, TuningError
from forgeline.models import encode_prompt, load_tuned
from forgeline.models.score import token_losses
from forgeline.records import Record, write_jsonl
from forgeline.tuning import checkpoint, tune
from forgeline.tuning.examples import batches, read_examples
from forgeline.tuning.fused import fuse
from forgeline.tuning.sample import sample

PROJECT = Path(__file__).parents[2]
ACTS = ["Train-Inform", "Hotel-Inform", "Taxi-Inform", "Booking-Book", "Hotel-Request", "Train-Request"]


def rows(count):
    for number in range(count):
        act = ACTS[number % len(ACTS)]
        user = {"role": "user", "content": f"act: {act}\nref: {number}"}
        yield {
            "id": f"row-{number}",
            "key": f"row-{number}",
            "messages": [user, {"role": "assistant", "content": f"Your {act} is number {number}."}],
        }


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    write_jsonl(folder / "train.jsonl", rows(24))
    write_jsonl(folder / "validation.jsonl", rows(4))
    return folder


@pytest.fixture(scope="module")
def settings():
    overrides = ["train.dtype=float32", "train.batch_size=4", "train.checkpoint_steps=2", "train.lora.dropout=0.1"]
    return load(PROJECT, overrides=overrides).train


def train(settings, splits, folder, log=lambda metrics, step: None):
    data = splits / "train.jsonl", splits / "validation.jsonl"
    return tune(settings, *data, folder, seed=7, root=PROJECT, log=log)


@pytest.fixture(scope="module")
def uninterrupted(settings, splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    curve = []
    tuned = train(settings, splits, folder, lambda metrics, step: curve.append((step, metrics)))
    return tuned, curve


def test_training_learns_and_says_so_at_every_step(uninterrupted):
    tuned, curve = uninterrupted
    losses = [metrics["loss"] for _, metrics in curve if "loss" in metrics]
    assert tuned.steps == len(losses) == 6
    assert losses[-1] < losses[0]
    assert all(metrics["tokens_per_second"] > 0 for _, metrics in curve if "loss" in metrics)
    assert math.isfinite(tuned.validation_loss)
    assert set(json.loads((Path(tuned.path).parent / "records.json").read_text())) == {f"row-{n}" for n in range(24)}


def test_the_chat_template_travels_with_the_adapter(uninterrupted):
    assert (Path(uninterrupted[0].path) / "chat_template.jinja").is_file()


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_tuning import train, load, PROJECT
settings = load(PROJECT, overrides={overrides!r}).train
train(settings, Path({splits!r}), Path({folder!r}))
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(settings, splits, tmp_path, uninterrupted):
    overrides = ["train.dtype=float32", "train.batch_size=4", "train.checkpoint_steps=2", "train.lora.dropout=0.1"]
    code = KILLED.format(
        tests=str(Path(__file__).parent), overrides=overrides, splits=str(splits), folder=str(tmp_path)
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert list(tmp_path.glob("step-*")) and not (tmp_path / "result.json").exists()
    steps = []
    resumed = train(settings, splits, tmp_path, lambda metrics, step: steps.append(step))
    assert steps[0] > 2  # nothing before the checkpoint was done again
    assert resumed.tokens == uninterrupted[0].tokens
    mine, theirs = (load_file(Path(run.path) / "adapter_model.safetensors") for run in (resumed, uninterrupted[0]))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-6)


def test_a_finished_run_is_not_done_again(settings, splits, uninterrupted):
    again = train(settings, splits, Path(uninterrupted[0].path).parent, lambda *_: pytest.fail("trained again"))
    assert again == uninterrupted[0]


def test_the_merged_model_is_the_adapted_model(settings, base, uninterrupted):
    adapter = uninterrupted[0].path
    merged = load_tuned(settings, Path(adapter), PROJECT)
    ids = torch.tensor([encode_prompt(base.tokenizer, [{"role": "user", "content": "act: Taxi-Inform"}])])
    beside = PeftModel.from_pretrained(copy.deepcopy(base.model), adapter)
    with torch.no_grad():
        torch.testing.assert_close(merged.model(ids).logits, beside(ids).logits, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(base.model(ids).logits, beside(ids).logits, atol=1e-2)


def test_fused_layers_compute_what_pefts_do(base, splits):
    examples, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, 512, seed=1)
    model = get_peft_model(copy.deepcopy(base.model), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(3)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in weights.values():
        torch.nn.init.normal_(weight, std=0.02)
    losses, gradients = [], []
    for prepare in (lambda model: None, fuse):
        prepare(model)
        losses.append(token_losses(model, examples[:4], base.tokenizer.pad_token_id))
        losses[-1].mean().backward()
        gradients.append({name: weight.grad.clone() for name, weight in weights.items()})
        model.zero_grad()
    assert any("forward" in vars(module) for module in model.modules())  # the second was fused
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(settings, splits, tmp_path):
    reckless = settings.model_copy(update={"learning_rate": 1e30, "checkpoint_steps": 1})
    with pytest.raises(TuningError, match=r"no longer a number at step \d+ of 6: lower train.learning_rate"):
        train(reckless, splits, tmp_path)
    assert list(tmp_path.glob("step-*"))


def test_a_full_disk_stops_and_keeps_the_checkpoint_before(tmp_path):
    state = checkpoint.Checkpoint(1, 10, 1.0, {"weight": torch.zeros(10)})
    checkpoint.save(tmp_path, state)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a write past it fails, as on a full disk
    try:
        with pytest.raises(TuningError, match=r"step 2 cannot be written .* goes on from the checkpoint before"):
            checkpoint.save(tmp_path, checkpoint.Checkpoint(2, 20, 2.0, {"weight": torch.zeros(10**6)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(tmp_path).step == 1


def test_a_row_without_a_completion_is_named(settings, splits, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"id": "x", "key": "x", "messages": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(DataError, match=r"train.jsonl, line 1, .*the last message must be the assistant's completion"):
        tune(settings, tmp_path / "train.jsonl", splits / "validation.jsonl", tmp_path, seed=1, root=PROJECT, log=print)


def test_records_that_do_not_fit_are_told(base, splits):
    with pytest.raises(TuningError, match=r"none of 24 records fits train.max_tokens=5"):
        read_examples(splits / "train.jsonl", base.tokenizer, None, 5, seed=1)


def test_a_sample_takes_every_prompts_most_typical_reply_before_any_second():
    def reply(key, text):
        user = {"role": "user", "content": key}
        return Record(id=text, key=key, messages=[user, {"role": "assistant", "content": text}])

    replies = [reply("bye", "so long"), reply("bye", "good bye"), reply("bye", "good bye then"), reply("hi", "hello")]
    assert {record.id for record in sample(replies, 2, seed=1)} == {"good bye", "hello"}
    assert sorted(record.id for record in sample(replies, None, seed=1)) == sorted(record.id for record in replies)
    assert sample(replies, 3, seed=1) == sample(replies, 3, seed=1)


def test_a_records_weight_reaches_training(base, splits, tmp_path):
    weighted = [row | {"weight": 1.0 + number % 2} for number, row in enumerate(rows(6))]
    write_jsonl(tmp_path / "train.jsonl", weighted)
    examples, ids = read_examples(tmp_path / "train.jsonl", base.tokenizer, None, 512, seed=1)
    assert {name: example.weight for name, example in zip(ids, examples, strict=True)} == {
        row["id"]: row["weight"] for row in weighted
    }
    even, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, 512, seed=1)
    assert {example.weight for example in even} == {1.0}


def test_batches_are_all_examples_once_in_a_seeded_order(base, splits):
    examples, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, 512, seed=1)
    first = batches(examples, 5, seed=1, epoch=0)
    assert sorted(map(len, first)) == [4, 5, 5, 5, 5]
    assert sorted(id(each) for batch in first for each in batch) == sorted(map(id, examples))
    assert first == batches(examples, 5, seed=1, epoch=0) != batches(examples, 5, seed=1, epoch=1)
