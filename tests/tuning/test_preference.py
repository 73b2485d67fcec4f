import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from forgeline.config import load
from forgeline.errors import DataError, TuningError
from forgeline.models import encode_example, load_base, load_tuned
from forgeline.models.score import completion_losses
from forgeline.records import Record, write_jsonl
from forgeline.tuning import tune
from forgeline.tuning.judged import read_judged

PROJECT = Path(__file__).parents[2]
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}


def turns(number, reply):
    return [{"role": "user", "content": f"Where is order {number}?"}, {"role": "assistant", "content": reply}]


def pairs(count, start=0):
    for number in range(start, start + count):
        polite, rude = f"Order {number} is on its way, thank you.", f"No idea, order {number} again?"
        yield {"id": f"pair-{number}", "key": f"{number}", "messages": turns(number, polite), "rejected": rude}


def thumbs(count, start=0):
    """Return twice as many disliked replies as liked ones."""
    for number in range(start, start + count):
        liked = number % 3 == 0
        reply = f"Order {number} is on its way, thank you." if liked else f"No idea, order {number} again?"
        yield {"id": f"thumb-{number}", "key": f"{number}", "messages": turns(number, reply), "label": liked}


ROWS = {"dpo": pairs, "kto": thumbs}


def split(folder, rows, validation=None):
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "validation.jsonl", rows if validation is None else validation)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The splits of each method."""
    folders = {method: tmp_path_factory.mktemp(method) for method in ROWS}
    return {method: split(folders[method], [*make(8)], [*make(3, 99)]) for method, make in ROWS.items()}


def tiny(folder, tokenizer, layers=2):
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=layers, vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(base, tmp_path_factory):
    """The settings of a random model with the real tokenizer, small enough to be tuned in a second."""
    folder = tiny(tmp_path_factory.mktemp("tiny"), base.tokenizer)
    return settings(folder, "train.lora.rank=4", "train.learning_rate=0.02")


def settings(source, *overrides):
    shared = ["train.dtype=float32", "train.batch_size=3", "train.checkpoint_steps=2", "train.epochs=2"]
    chosen = load(PROJECT, overrides=[*shared, *overrides]).train
    return chosen.model_copy(update={"model": chosen.model.model_copy(update={"source": str(source)})})


def changed(settings, **keys):
    return settings.model_copy(update=keys)


def train(settings, splits, folder, log=lambda metrics, step: None):
    files = splits / "train.jsonl", splits / "validation.jsonl"
    return tune(settings, *files, folder, seed=7, root=PROJECT, log=log)


def likelihoods(language_model, messages):
    """Return the log-probability of each conversation's reply."""
    records = [Record(id=str(n), key="k", messages=each) for n, each in enumerate(messages)]
    examples = [encode_example(language_model.tokenizer, record) for record in records]
    losses = completion_losses(language_model.model, examples, language_model.tokenizer.pad_token_id)
    return torch.tensor([-nats for nats, _ in losses])


def preferred(language_model):
    """Return how much likelier polite replies are than rude ones, for orders that were not trained on."""
    rows = [*pairs(2, 200)]
    liked = likelihoods(language_model, [row["messages"] for row in rows])
    return liked - likelihoods(language_model, [turns(200 + n, row["rejected"]) for n, row in enumerate(rows)])


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_what_people_like_becomes_likelier_than_what_they_do_not(method, config, base, tmp_path):
    """On the real model."""
    splits = split(tmp_path, [*ROWS[method](6)], [*ROWS[method](3, 100)])
    real = changed(config.train, method=method, batch_size=3, learning_rate=1e-3, warmup=0)
    curve = []
    tuned = train(real, splits, tmp_path / "run", lambda metrics, step: curve.append((step, metrics)))
    steps = [metrics for step, metrics in curve if "loss" in metrics]
    assert len(steps) == tuned.steps == 2
    assert steps[0]["reward_liked"] == steps[0]["reward_disliked"] == 0  # nothing has moved before the first step
    assert all(math.isfinite(value) for metrics in steps for value in metrics.values())
    assert {"learning_rate", "grad_norm", "tokens_per_second", "reward_liked", "reward_disliked"} <= steps[0].keys()
    assert curve[-1][1]["validation_loss"] == tuned.validation_loss < 0.6932
    assert curve[-1][1]["validation_reward_margin"] > 0
    assert (preferred(load_tuned(real, Path(tuned.path), PROJECT)) > preferred(base) + 1).all()


@pytest.fixture(scope="module")
def whole(small, data, tmp_path_factory):
    """A run of each method on the small model that nothing interrupted."""
    return {
        method: train(changed(small, method=method), data[method], tmp_path_factory.mktemp("run")) for method in ROWS
    }


def test_a_finished_run_names_its_records_and_is_not_done_again(whole, small, data):
    folder = Path(whole["dpo"].path).parent
    assert sorted(json.loads((folder / "records.json").read_text())) == sorted(f"pair-{n}" for n in range(8))
    assert {path.name for path in folder.iterdir()} == {"tuned", "records.json", "result.json"}
    assert not (folder / "tuned" / "ref").exists() and (folder / "tuned" / "chat_template.jinja").is_file()
    again = train(changed(small, method="dpo"), data["dpo"], folder, lambda *_: pytest.fail("trained again"))
    assert again == whole["dpo"]


def test_pairs_are_rendered_as_everywhere_else(base, data, small):
    rows = [*pairs(8)]
    read = read_judged(data["dpo"] / "train.jsonl", base.tokenizer, changed(small, method="dpo"), None, seed=1)
    for name, example in zip(read.ids, read.examples, strict=True):
        row = rows[int(name.removeprefix("pair-"))]
        other = {**row, "messages": turns(row["key"], row["rejected"])}
        chosen, rejected = (encode_example(base.tokenizer, Record.model_validate(each)) for each in (row, other))
        assert example.prompt == chosen.prompt == rejected.prompt
        assert (example.completion, list(example.rejected)) == (chosen.completion, rejected.completion)


def test_small_batches_at_once_change_nothing_but_memory(whole, small, data, tmp_path):
    log = {}
    parts = changed(small, method="dpo", micro_batch=2, activation_checkpointing=True, validate_steps=4)
    tuned = train(parts, data["dpo"], tmp_path, lambda metrics, step: log.setdefault(step, {}).update(metrics))
    mine, theirs = (load_file(Path(run.path) / "adapter_model.safetensors") for run in (tuned, whole["dpo"]))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-4)
    assert [step for step, metrics in log.items() if "validation_reward_accuracy" in metrics] == [4, 6]


def test_the_rarer_thumb_counts_for_more(small, data, tmp_path):
    log = []
    once = changed(small, method="kto", batch_size=8, epochs=1)
    train(once, data["kto"], tmp_path, lambda metrics, step: log.append(metrics))
    # At first each reply's loss is a half; the 3 liked ones count 5 / 3, the 5 disliked ones once.
    assert log[1]["loss"] == pytest.approx(0.5 * (3 * 5 / 3 + 5) / 8)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_preference import changed, settings, train
small = settings({source!r}, "train.lora.rank=4", "train.learning_rate=0.02")
kill = lambda metrics, step: step == 3 and os.kill(os.getpid(), signal.SIGKILL)
train(changed(small, method="kto"), Path({splits!r}), Path({folder!r}), kill)
"""


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(whole, small, data, tmp_path):
    code = KILLED.format(
        tests=str(Path(__file__).parent), source=small.model.source, splits=str(data["kto"]), folder=str(tmp_path)
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000002"]
    (tmp_path / "step.part").mkdir(exist_ok=True)
    (tmp_path / "step.part" / "state.safetensors").write_bytes(b"half")  # killed while it was written
    steps = []
    resumed = train(changed(small, method="kto"), data["kto"], tmp_path, lambda metrics, step: steps.append(step))
    assert steps == [0, 3, 4, 5, 6, 6]  # nothing before the checkpoint was done again
    assert resumed.tokens == whole["kto"].tokens
    mine, theirs = (load_file(Path(run.path) / "adapter_model.safetensors") for run in (resumed, whole["kto"]))
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-6)


def test_it_goes_on_from_an_adapter_which_is_the_reference_too(whole, small, data, tmp_path):
    first, log = whole["dpo"], []
    onward = changed(small, method="kto", start=first.path, lora=small.lora.model_copy(update={"rank": 2}))
    tuned = train(onward, data["kto"], tmp_path, lambda metrics, step: log.append(metrics))
    rewards = next(metrics for metrics in log if "loss" in metrics)
    assert rewards["reward_disliked"] == 0  # against the first adapter, not the base
    plain = AutoModelForCausalLM.from_pretrained(small.model.source)
    assert PeftModel.from_pretrained(plain, tuned.path).peft_config["default"].r == 4  # the shape of the first
    start, end = (load_file(Path(run.path) / "adapter_model.safetensors") for run in (first, tuned))
    assert start.keys() == end.keys() and any(not torch.equal(start[name], end[name]) for name in start)
    load_tuned(onward, Path(tuned.path), PROJECT)


def test_an_adapter_of_another_base_is_refused(whole, small, base, data, tmp_path):
    shallow = tiny(tmp_path / "shallow", base.tokenizer, layers=1)
    other = small.model.model_copy(update={"source": str(shallow)})
    with pytest.raises(TuningError, match=r"train.start: .* was made for another base than .*shallow: its weights do"):
        train(changed(small, method="dpo", model=other, start=whole["dpo"].path), data["dpo"], tmp_path)
    with pytest.raises(TuningError, match=r"train.start: .*shallow holds no adapter"):
        train(changed(small, method="dpo", start=str(shallow)), data["dpo"], tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(small, data, tmp_path):
    reckless = changed(small, method="dpo", learning_rate=1e30, checkpoint_steps=1)
    with pytest.raises(TuningError, match=r"no longer a number at step \d+ of 6: lower train.learning_rate"):
        train(reckless, data["dpo"], tmp_path)
    [kept] = tmp_path.glob("step-*")
    assert all(weight.isfinite().all() for weight in load_file(kept / "state.safetensors").values())


def liked(rows, label):
    return [{**row, "label": label} for row in rows]


@pytest.mark.parametrize(
    ("method", "rows", "error", "message"),
    [
        ("dpo", [*thumbs(3)], DataError, "none of 3 records has a rejected completion, which dpo learns from: add"),
        ("kto", [*pairs(3)], DataError, "none of 3 records has a label, which kto learns from: add a source"),
        ("kto", liked(pairs(3), True), DataError, "all 3 labelled records are liked; kto learns from the difference"),
        ("dpo", [{**row, "rejected": row["messages"][-1]["content"]} for row in pairs(3)], DataError, "all 3 pairs"),
        ("dpo", [{**row, "weight": 2} for row in pairs(3)], DataError, "3 records have a weight other than 1"),
    ],
)
def test_a_split_that_teaches_nothing_is_told(method, rows, error, message, small, tmp_path):
    with pytest.raises(error, match=message):
        train(changed(small, method=method), split(tmp_path, rows), tmp_path)


def test_a_validation_split_without_rows_is_told(small, tmp_path):
    with pytest.raises(DataError, match=r"validation.jsonl: none of 0 records has a rejected completion"):
        train(changed(small, method="dpo"), split(tmp_path, pairs(3), []), tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"micro_batch": 1},
            "kto compares the examples of a batch: set train.batch_size and train.micro_batch above 1",
        ),
        ({"validate_steps": 1, "patience": 2}, "train.method=kto does not stop early: leave train.patience out"),
    ],
)
def test_settings_that_do_not_go_with_the_method_are_told(keys, message, small, data, tmp_path):
    with pytest.raises(TuningError, match=message):
        train(changed(small, method="kto", **keys), data["kto"], tmp_path)


def test_long_records_stop_the_run_or_are_left_out_and_counted(base, small, tmp_path):
    long = {"id": "long", "key": "long", "messages": turns(1, "Yes. " * 200), "rejected": "No."}
    same = {"id": "same", "key": "same", "messages": turns(2, "Soon."), "rejected": "Soon."}
    path = split(tmp_path, [*pairs(2), long, same]) / "train.jsonl"
    strict = changed(small, method="dpo", max_tokens=100)
    with pytest.raises(TuningError, match=r"1 of 3 records are longer than train.max_tokens=100 \(the first is long\)"):
        read_judged(path, base.tokenizer, strict, None, seed=1)
    read = read_judged(path, base.tokenizer, changed(strict, overlong="drop"), None, seed=1)
    assert sorted(read.ids) == ["pair-0", "pair-1"]
    assert read.left_out == {"equal_pairs": 1, "overlong_records": 1}


def test_nothing_is_printed_and_no_network_is_asked_for(small, data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._telemetry._send_telemetry_in_thread", lambda *_, **__: pytest.fail())
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked for"))
    train(changed(small, method="kto"), data["kto"], tmp_path)
    assert capfd.readouterr() == ("", "")
    assert load_base(small, PROJECT).tokenizer.chat_template
