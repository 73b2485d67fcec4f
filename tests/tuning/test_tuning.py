"""Training through `tune`: what it learns, that it is exact, and that it survives."""

import copy
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from forgeline.errors import DataError, TuningError
from forgeline.models import encode_prompt, load_tuned
from forgeline.models.score import batch_loss, total_weight
from forgeline.records import Record, write_jsonl
from forgeline.sample import sample
from forgeline.tuning import checkpoint, tune
from forgeline.tuning.__main__ import work as member
from forgeline.tuning.curve import read
from forgeline.tuning.examples import batches, read_examples
from forgeline.tuning.fused import fuse
from forgeline.tuning.job import Job
from forgeline.tuning.launch import fault
from forgeline.tuning.watch import diverged, exhausted

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
def settings(tiny):
    """The tiny base, six steps of four rows, with dropout: what is repeated must repeat that too."""
    lora = tiny.train.lora.model_copy(update={"dropout": 0.1})
    small = {"max_examples": None, "batch_size": 4, "checkpoint_steps": 2, "learning_rate": 1e-2, "lora": lora}
    return tiny.train.model_copy(update=small)


def train(settings, splits, folder, log=lambda metrics, step: None, **changes):
    data = splits / "train.jsonl", splits / "validation.jsonl"
    return tune(settings.model_copy(update=changes), *data, folder, seed=7, root=PROJECT, log=log)


def weights(tuned, name="adapter_model.safetensors"):
    return load_file(Path(tuned.path) / name)


def same(mine, theirs, tolerance=1e-5):
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture(scope="module")
def uninterrupted(settings, splits, tmp_path_factory):
    curve = []
    tuned = train(settings, splits, tmp_path_factory.mktemp("run"), lambda metrics, step: curve.append((step, metrics)))
    return tuned, curve


@pytest.fixture(scope="module")
def real(config, splits, tmp_path_factory):
    """The shipped base model, tuned on the rows."""
    settings = config.train.model_copy(update={"max_examples": None, "batch_size": 4})
    return settings, train(settings, splits, tmp_path_factory.mktemp("real"))


def test_training_learns_and_says_so_at_every_step(uninterrupted):
    tuned, curve = uninterrupted
    losses = [metrics["loss"] for _, metrics in curve if "loss" in metrics]
    assert tuned.steps == len(losses) == 6
    assert losses[-1] < losses[0]
    assert all(metrics["tokens_per_second"] > 0 < metrics["memory_gb"] for _, metrics in curve if "loss" in metrics)
    assert math.isfinite(tuned.validation_loss) and not tuned.stopped_early
    folder = Path(tuned.path).parent
    assert [{"step": step, **metrics} for step, metrics in curve] == read(folder)
    assert set(json.loads((folder / "records.json").read_text())) == {f"row-{n}" for n in range(24)}


def test_the_chat_template_travels_with_the_adapter(uninterrupted):
    assert (Path(uninterrupted[0].path) / "chat_template.jinja").is_file()


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_tuning import train
from forgeline.config.schema import Train
settings = Train.model_validate_json({settings!r})
train(settings, Path({splits!r}), Path({folder!r}), lambda metrics, step: print(flush=True))
"""


@pytest.mark.parametrize("after", [4, 6])  # steps; at the sixth, the last checkpoint may be half written
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(settings, splits, tmp_path, uninterrupted, after):
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        settings=settings.model_dump_json(),
        splits=str(splits),
        folder=str(tmp_path),
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        for _ in range(after):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "result.json").exists()
    saved = checkpoint.load(tmp_path)
    steps = []
    resumed = train(settings, splits, tmp_path, lambda metrics, step: steps.append(step))
    assert steps[0] == min(6, 1 + (saved.step if saved else 0))  # nothing before the checkpoint is done again
    assert resumed.tokens == uninterrupted[0].tokens
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]  # the last is the validation's
    same(weights(resumed), weights(uninterrupted[0]))


def test_a_finished_run_is_not_done_again(settings, splits, uninterrupted):
    again = train(settings, splits, Path(uninterrupted[0].path).parent, lambda *_: pytest.fail("trained again"))
    assert again == uninterrupted[0]


def test_rows_in_parts_are_the_rows_at_once(settings, splits, tmp_path):
    plain = settings.model_copy(update={"lora": settings.lora.model_copy(update={"dropout": 0.0})})
    whole = train(plain, splits, tmp_path / "whole", micro_batch=4)
    parts = train(plain, splits, tmp_path / "parts", micro_batch=3, activation_checkpointing=True)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    same(weights(parts), weights(whole), 1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one(settings, splits, tmp_path, strategy):
    plain = settings.model_copy(update={"lora": settings.lora.model_copy(update={"dropout": 0.0})})
    alone = train(plain, splits, tmp_path / "alone", batch_size=5)  # the last batch has fewer rows than the others
    told = []
    distributed = plain.distributed.model_copy(update={"processes": 2, "strategy": strategy})
    pair = train(plain, splits, tmp_path / "pair", lambda *row: told.append(row), batch_size=5, distributed=distributed)
    assert [step for _, step in told] == [1, 2, 3, 4, 5, 5]
    assert (pair.tokens, pair.steps) == (alone.tokens, alone.steps)
    assert pair.validation_loss == pytest.approx(alone.validation_loss, rel=1e-4)
    same(weights(pair), weights(alone), 1e-3)


def test_a_process_of_a_team_leaves_why_it_stopped(settings, splits, tmp_path):
    job = Job(
        config=settings.model_copy(update={"max_tokens": 5}),
        train=splits / "train.jsonl",
        validation=splits / "validation.jsonl",
        folder=tmp_path,
        seed=1,
        root=PROJECT,
    )
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert member(tmp_path / "job.json") == 1
    assert "24 of 24 records are longer than train.max_tokens=5" in fault(tmp_path).read_text()


@pytest.mark.parametrize("method", ["rslora", "dora", "full", "qlora"])
def test_every_method_learns_and_is_loaded_again(settings, splits, tmp_path, method):
    changes = {"learning_rate": 3e-3} if method == "full" else {}
    losses = []
    tuned = train(
        settings, splits, tmp_path, lambda metrics, _: losses.append(metrics.get("loss")), method=method, **changes
    )
    assert losses[5] < losses[0]
    loaded = load_tuned(settings.model_copy(update={"method": method}), Path(tuned.path), PROJECT)
    examples, _ = read_examples(splits / "validation.jsonl", loaded.tokenizer, None, settings, seed=1)
    with torch.no_grad():
        again = batch_loss(loaded.model, examples, total_weight(examples)).item()
    assert again == pytest.approx(tuned.validation_loss, rel=2e-2 if method == "qlora" else 1e-4)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_training_with_evaluations_in_between_is_training_without(settings, splits, tmp_path, quantization):
    qlora = settings.model_copy(update={"method": "qlora", "quantization": quantization})
    without = train(qlora, splits, tmp_path / "without")
    between = train(qlora, splits, tmp_path / "with", validate_steps=1)
    same(weights(between), weights(without))


def test_the_merged_model_is_the_adapted_model(real, base):
    settings, tuned = real
    merged = load_tuned(settings, Path(tuned.path), PROJECT)
    ids = torch.tensor([encode_prompt(base.tokenizer, [{"role": "user", "content": "act: Taxi-Inform"}])])
    beside = PeftModel.from_pretrained(copy.deepcopy(base.model), tuned.path)
    with torch.no_grad():
        torch.testing.assert_close(merged.model(ids).logits, beside(ids).logits, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(base.model(ids).logits, beside(ids).logits, atol=1e-2)


def test_fused_layers_compute_what_plain_ones_do(base, splits, settings):
    examples, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, settings, seed=1)
    model = get_peft_model(copy.deepcopy(base.model), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    torch.manual_seed(3)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        torch.nn.init.normal_(weight, std=0.02)
    losses, gradients = [], []
    for prepare in (lambda model: None, fuse):
        prepare(model)
        losses.append(batch_loss(model, examples[:4], total_weight(examples[:4])))
        losses[-1].backward()
        gradients.append({name: weight.grad.clone() for name, weight in trained.items()})
        model.zero_grad()
    fused = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
    assert fused == {"Linear", "LlamaRMSNorm", "LlamaMLP"}
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    same(gradients[1], gradients[0], 1e-3)


def test_training_stops_when_the_validation_loss_no_longer_falls_and_keeps_the_best(settings, splits, tmp_path):
    curve = []
    tuned = train(
        settings,
        splits,
        tmp_path,
        lambda metrics, step: curve.append((step, metrics)),
        epochs=20,
        learning_rate=5e-2,
        validate_steps=2,
        patience=2,
        checkpoint_steps=3,
    )
    validation = [metrics["validation_loss"] for _, metrics in curve if "validation_loss" in metrics]
    assert tuned.stopped_early and tuned.steps < 120
    assert min(validation[-2:]) >= min(validation) == tuned.validation_loss
    loaded = load_tuned(settings, Path(tuned.path), PROJECT)
    examples, _ = read_examples(splits / "validation.jsonl", loaded.tokenizer, None, settings, seed=1)
    with torch.no_grad():
        best = batch_loss(loaded.model, examples, total_weight(examples)).item()
    assert best == pytest.approx(tuned.validation_loss, rel=1e-4)


def test_patience_counts_validations_since_the_best():
    assert not exhausted([3, 2, 1], 2) and not exhausted([1, 2], 2) and not exhausted([3, 2, 4, 1], 2)
    assert exhausted([3, 1, 2, 1], 2) and not exhausted([1, 2, 3], None)


def test_a_climbing_loss_is_a_divergence_and_a_hard_batch_is_none():
    falling = [4 - 0.1 * step for step in range(20)]
    assert diverged(falling) is None
    assert diverged([*falling, 4.5]) is None  # one hard batch
    assert diverged([*falling, 5, 6, 7, 8, 9]) == 19
    assert diverged([*falling, math.nan]) == 19


def test_a_learning_rate_that_diverges_stops_and_keeps_the_last_good_checkpoint(settings, splits, tmp_path):
    steps = []
    reckless = {"method": "full", "learning_rate": 1.0, "warmup": 1.0, "epochs": 20}
    with pytest.raises(
        TuningError,
        match=r"The loss (is no longer a number|has climbed to [\d.]+ from [\d.]+) at step \d+ of 120: lower "
        r"train.learning_rate \(now 1\). The last good checkpoint is kept: .*step-\d+",
    ):
        train(settings, splits, tmp_path, lambda _, step: steps.append(step), **reckless)
    assert max(steps) < 119 and len(list(tmp_path.glob("step-*"))) == 1


def test_a_full_disk_stops_and_keeps_the_checkpoint_before(tmp_path):
    checkpoint.save(tmp_path, checkpoint.Checkpoint(1, tensors={"weight": torch.zeros(10)}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a write past it fails, as on a full disk
    try:
        with pytest.raises(TuningError, match=r"step 2 cannot be written .* goes on from the checkpoint before"):
            checkpoint.save(tmp_path, checkpoint.Checkpoint(2, tensors={"weight": torch.zeros(10**6)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(tmp_path).step == 1


@pytest.mark.parametrize("name", ["state.safetensors", "progress.json"])
def test_a_damaged_checkpoint_is_named_and_a_half_written_one_ignored(tmp_path, name):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, tensors={"weight": torch.full((9,), float(step))}))
    (tmp_path / "step.part").mkdir()
    (tmp_path / "step.part" / name).write_text("{")
    assert checkpoint.load(tmp_path).step == 3
    file = tmp_path / "step-000003" / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(TuningError, match=r"step-000003 is damaged.*Delete that folder.*goes on from step-000002"):
        checkpoint.load(tmp_path)


def test_a_row_without_a_completion_is_named(settings, splits, tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"id": "x", "key": "x", "messages": [{"role": "user", "content": "hi"}]}])
    with pytest.raises(DataError, match=r"train.jsonl, line 1, .*the last message must be the assistant's completion"):
        tune(settings, tmp_path / "train.jsonl", splits / "validation.jsonl", tmp_path, seed=1, root=PROJECT, log=print)


def test_an_empty_validation_split_is_told_before_training(settings, splits, tmp_path):
    (tmp_path / "validation.jsonl").touch()
    with pytest.raises(TuningError, match=r"validation.jsonl holds no records: raise split.validation in configs"):
        tune(settings, splits / "train.jsonl", tmp_path / "validation.jsonl", tmp_path, seed=1, root=PROJECT, log=print)


def test_records_that_do_not_fit_are_told_or_dropped(base, splits, settings):
    path = splits / "train.jsonl"
    examples, _ = read_examples(path, base.tokenizer, None, settings, seed=1)
    longest = max(map(len, examples))
    short = settings.model_copy(update={"max_tokens": longest - 1})
    with pytest.raises(
        TuningError, match=rf"of 24 records are longer than .*={longest - 1} \(the longest has {longest}"
    ):
        read_examples(path, base.tokenizer, None, short, seed=1)
    kept, _ = read_examples(path, base.tokenizer, None, short.model_copy(update={"overlong": "drop"}), seed=1)
    assert kept == [example for example in examples if len(example) < longest]


def test_more_tokens_than_the_context_holds_are_told_before_training(settings, splits, tmp_path):
    with pytest.raises(TuningError, match=r"train.max_tokens is 9000, but .* reads at most 2048 tokens"):
        train(settings, splits, tmp_path, max_tokens=9000)


def test_what_does_not_fit_the_memory_is_told_before_anything_is_loaded(settings, splits, tmp_path, monkeypatch):
    monkeypatch.setattr("forgeline.tuning.room.free_memory", lambda device: 10e6)
    monkeypatch.setattr(sys.modules["forgeline.tuning.tune"], "load_base", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(TuningError, match=r"Training needs 0.\d GB of memory and 0.0 GB is free: .*; train\..* needs"):
        train(settings, splits, tmp_path, method="full")


def test_targets_that_no_layer_bears_are_told_with_those_there_are(settings, splits, tmp_path):
    lora = settings.lora.model_copy(update={"targets": ["c_attn"]})
    with pytest.raises(
        TuningError, match=r"lora.targets: c_attn fits no layer of Llama.*; it has down_proj, gate_proj"
    ):
        train(settings, splits, tmp_path, lora=lora)


def test_a_sample_takes_every_prompts_most_typical_reply_before_any_second():
    def reply(key, text):
        user = {"role": "user", "content": key}
        return Record(id=text, key=key, messages=[user, {"role": "assistant", "content": text}])

    replies = [reply("bye", "so long"), reply("bye", "good bye"), reply("bye", "good bye then"), reply("hi", "hello")]
    assert {record.id for record in sample(replies, 2, seed=1)} == {"good bye", "hello"}
    assert sorted(record.id for record in sample(replies, None, seed=1)) == sorted(record.id for record in replies)
    assert sample(replies, 3, seed=1) == sample(replies, 3, seed=1)


def test_a_records_weight_reaches_training(base, splits, settings, tmp_path):
    weighted = [row | {"weight": 1.0 + number % 2} for number, row in enumerate(rows(6))]
    write_jsonl(tmp_path / "train.jsonl", weighted)
    examples, ids = read_examples(tmp_path / "train.jsonl", base.tokenizer, None, settings, seed=1)
    assert {name: example.weight for name, example in zip(ids, examples, strict=True)} == {
        row["id"]: row["weight"] for row in weighted
    }
    even, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, settings, seed=1)
    assert {example.weight for example in even} == {1.0}


def test_replies_that_people_disliked_are_not_learned_from(base, settings, tmp_path, capsys):
    judged = [row | {"label": number > 1} for number, row in enumerate(rows(4))]
    write_jsonl(tmp_path / "train.jsonl", [*judged, *({**row, "id": "new"} for row in rows(1))])
    _, ids = read_examples(tmp_path / "train.jsonl", base.tokenizer, None, settings, seed=1)
    assert sorted(ids) == ["new", "row-2", "row-3"]
    assert "2 replies that people disliked are left out" in capsys.readouterr().out


def test_batches_are_all_examples_once_in_a_seeded_order(base, splits, settings):
    examples, _ = read_examples(splits / "train.jsonl", base.tokenizer, None, settings, seed=1)
    first = batches(examples, 5, seed=1, epoch=0)
    assert sorted(map(len, first)) == [4, 5, 5, 5, 5]
    assert sorted(id(each) for batch in first for each in batch) == sorted(map(id, examples))
    assert first == batches(examples, 5, seed=1, epoch=0) != batches(examples, 5, seed=1, epoch=1)
