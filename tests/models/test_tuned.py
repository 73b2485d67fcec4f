"""What was tuned: saved whole or not at all, loaded as it was, refused where it does not fit."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from forgeline.config import load
from forgeline.config.schema import Model, Scratch, Train
from forgeline.errors import ModelError
from forgeline.models import encode_example, encode_prompt, generate, load_base, load_tuned, save_tuned
from forgeline.models.score import batch_loss, completion_losses, token_losses, total_weight
from forgeline.records import read_records, write_jsonl
from forgeline.tuning.scratch import new_model

PROJECT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "Book a table"}]
SIZES = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two small base models, and one whose tokenizer has no chat template."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "configs/templates", folder / "configs/templates")
    reply = {"role": "assistant", "content": "Your table is booked."}
    rows = [{"id": str(n), "key": str(n), "messages": [*HELLO, reply]} for n in range(3)]
    write_jsonl(folder / "train.jsonl", rows)
    for name, settings in SIZES.items():
        wanted = train_settings(name, "scratch")
        wanted = wanted.model_copy(update={"scratch": Scratch(architecture=name, settings=settings, vocabulary=300)})
        made = new_model(wanted, folder / "train.jsonl", folder, seed=1)
        save_tuned(made.model, made.tokenizer, folder / name)
    (shutil.copytree(folder / "llama", folder / "bare") / "chat_template.jinja").unlink()
    return folder


def train_settings(source: str, method: str = "lora", **changes: Any) -> Train:
    shipped = load(PROJECT, overrides=["train.dtype=float32"]).train
    return shipped.model_copy(update={"model": Model(source=source, license="none"), "method": method, **changes})


def adapted(base: Any, **options: Any) -> PeftModel:
    torch.manual_seed(2)
    shape = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return get_peft_model(base.model, shape, autocast_adapter_dtype=False).eval()


def logits(language_model: Any, model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([encode_prompt(language_model.tokenizer, HELLO)])).logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_a_saved_adapter_is_merged_when_it_is_loaded(root: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    settings = train_settings("llama")
    base = load_base(settings, root)
    untouched = logits(base, base.model)
    model = adapted(base, **options)
    save_tuned(model, base.tokenizer, tmp_path / "tuned")
    loaded = load_tuned(settings, tmp_path / "tuned", root)
    assert not isinstance(loaded.model, PeftModel)
    torch.testing.assert_close(logits(loaded, loaded.model), logits(base, model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(untouched, logits(base, model), atol=1e-2)
    assert str(root) not in (tmp_path / "tuned/adapter_config.json").read_text()


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_base_of_few_bits_takes_an_adapter_beside_it(
    root: Path, tmp_path: Path, bits: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = train_settings("llama", "qlora", quantization=bits)
    exact = load_base(train_settings("llama"), root)
    base = load_base(settings, root)
    difference = logits(base, base.model) - logits(exact, exact.model)
    assert 0 < difference.abs().max() < 0.1
    model = adapted(base)
    expected = logits(base, model)
    save_tuned(model, base.tokenizer, tmp_path / "tuned")
    loaded = load_tuned(settings, tmp_path / "tuned", root)
    assert isinstance(loaded.model, PeftModel)
    torch.testing.assert_close(logits(loaded, loaded.model), expected)
    assert generate(loaded, [encode_prompt(loaded.tokenizer, HELLO)] * 2, max_new_tokens=4)
    assert "will be cast" not in capfd.readouterr().err  # bitsandbytes would, in every layer and call


def test_layers_that_cannot_be_quantised_are_told_before_weights_are_read(root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(root / "gpt2", tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the layers of .*gpt2 \(GPT2LMHeadModel\) are Conv1D.*set train.method=lora"):
        load_base(train_settings(str(folder), "qlora"), root)


def test_an_adapter_for_another_base_is_told_before_weights_are_read(root: Path, tmp_path: Path) -> None:
    base = load_base(train_settings("llama"), root)
    save_tuned(adapted(base), base.tokenizer, tmp_path / "tuned")
    other = shutil.copytree(root / "llama", tmp_path / "wider")
    (other / "model.safetensors").unlink()
    shape = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**shape, "intermediate_size": 96}))
    with pytest.raises(ModelError, match=r"made for llama and does not fit .*wider: its .*mlp.* has the shape \(4, 1"):
        load_tuned(train_settings(str(other)), tmp_path / "tuned", root)
    with pytest.raises(ModelError, match=r"made for llama and does not fit gpt2: none of the layers"):
        load_tuned(train_settings("gpt2"), tmp_path / "tuned", root)
    weights = tmp_path / "tuned/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is no intact adapter"):
        load_tuned(train_settings("llama"), tmp_path / "tuned", root)


def test_a_full_disk_leaves_what_was_there(root: Path, tmp_path: Path) -> None:
    base = load_base(train_settings("llama"), root)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/config.json").write_text("of before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1_000, 250_000):  # neither the tokenizer fits, nor the weights
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # a write past it fails, as on a full disk
        try:
            with pytest.raises(ModelError, match=r"cannot be written to .*free some space and run the command again"):
                save_tuned(base.model, base.tokenizer, tmp_path / "tuned")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in tmp_path.rglob("*")] == ["tuned", "config.json"]


def test_a_tokenizer_without_a_chat_template_names_the_key(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no chat template; name one with train.model.chat_template=configs/templ"):
        load_base(train_settings("bare"), root)
    model = Model(source="bare", license="none", chat_template="configs/templates/chatml.jinja")
    settings = train_settings("bare", model=model)
    base = load_base(settings, root)
    assert base.tokenizer.decode(encode_prompt(base.tokenizer, HELLO)).endswith("<|im_end|>\n<|im_start|>assistant\n")
    save_tuned(adapted(base), base.tokenizer, tmp_path / "tuned")
    (root / "configs/templates/own.jinja").write_text("{% for message in %}")
    loaded = load_tuned(train_settings("bare"), tmp_path / "tuned", root)  # it has the template with it
    assert loaded.tokenizer.chat_template == base.tokenizer.chat_template
    broken = model.model_copy(update={"chat_template": "configs/templates/own.jinja"})
    with pytest.raises(ModelError, match=r"own.jinja is not a chat template that works"):
        load_base(train_settings("bare", model=broken), root)


def test_padding_with_the_end_token_changes_no_loss_and_the_end_is_learned(root: Path) -> None:
    base = load_base(train_settings("llama"), root)
    records = read_records(root / "train.jsonl")
    long = records[0].model_copy(update={"messages": [*records[0].messages[:-1], records[0].messages[0]]})
    long.messages[-1] = records[0].messages[-1].model_copy(update={"content": "Yes, it is booked. " * 4})
    examples = [encode_example(base.tokenizer, record) for record in (records[0], long)]
    end = base.tokenizer.eos_token_id
    assert base.tokenizer.pad_token_id != end
    assert [example.completion[-1] for example in examples] == [end, end]
    expected = completion_losses(base.model, examples)
    base.tokenizer.pad_token = base.tokenizer.eos_token
    assert [encode_example(base.tokenizer, record) for record in (records[0], long)] == examples
    assert completion_losses(base.model, examples) == expected
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=1e-2)
    first = last = 0.0
    for step in range(8):
        batch_loss(base.model, examples[:1], total_weight(examples[:1])).backward()
        optimizer.step()
        optimizer.zero_grad()
        last = token_losses(base.model, examples[:1])[-1].item()
        first = last if step == 0 else first
    assert last < 0.5 * first  # of the end token alone
