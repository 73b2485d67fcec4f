from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from forgeline.config import catalogue, load
from forgeline.errors import TuningError
from forgeline.models.estimate import estimate, this_machine
from forgeline.models.fit import fit, free_memory
from forgeline.models.footprint import Batch, Shape, training_memory

PROJECT = Path(__file__).parents[2]
SMALL = Shape.of_entry(catalogue.read(PROJECT, "smollm2-135m").architecture)
LARGE = Shape.of_entry(catalogue.read(PROJECT, "llama-3.1-8b").architecture)


def settings(*overrides):
    return load(PROJECT, overrides=[f"train.{override}" for override in overrides]).train


def need(shape, train, rows=16, tokens=512, device="cuda", **options):
    return training_memory(shape, train, Batch.of([tokens] * rows, rows), device, "bfloat16", **options)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text", "phi3", "gpt2"])
def test_matrices_are_counted_as_transformers_builds_them(kind):
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100, "pad_token_id": 0}
    sizes |= {} if kind == "gpt2" else {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(kind, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    vectors = sum(weight.numel() for weight in model.parameters() if weight.dim() == 1)
    assert Shape.of(config).parameters == model.num_parameters() - vectors


@pytest.mark.parametrize("overrides", [["lora.rank=8"], ["method=dora"], ["lora.targets=[q_proj, down_proj]"]])
def test_the_weights_that_a_method_trains_are_those_that_peft_makes(base, overrides):
    import torch

    train = settings(*overrides)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(base.model.config)
        lora = LoraConfig(
            r=train.lora.rank, target_modules=train.lora.targets, use_dora=train.method == "dora", task_type="CAUSAL_LM"
        )
        made, _ = get_peft_model(model, lora).get_nb_trainable_parameters()
    assert SMALL.trained(train) == made


def test_flops_follow_the_count_of_frozen_and_trained_weights():
    lora, full = settings("method=lora"), settings("method=full")
    assert LARGE.flops(lora, 0, 0) == 4 * LARGE.linear + 6 * LARGE.trained(lora)
    assert LARGE.flops(full, 0, 0) == 6 * LARGE.linear
    longer = LARGE.flops(lora, 2048, 0) - LARGE.flops(lora, 0, 0)
    assert longer == 3 * (2 * 2 * 2048 * LARGE.hidden) / 2 * LARGE.layers  # q·k and weights·v, half of it masked
    assert LARGE.flops(lora, 0, 1) - LARGE.flops(lora, 0, 0) == 4 * LARGE.vocabulary * LARGE.hidden


def test_memory_is_where_the_methods_put_it():
    lora, qlora, full = (need(LARGE, settings(f"method={method}")) for method in ("lora", "qlora", "full"))
    assert lora.weights == pytest.approx(2 * 8.03e9, rel=0.02)
    assert qlora.weights < 0.45 * lora.weights
    assert full.optimizer == pytest.approx(12 * 8.03e9, rel=0.01)
    assert need(LARGE, settings(), checkpointing=True).activations < 0.2 * lora.activations
    assert need(LARGE, settings("lora.dropout=0.1")).activations > lora.activations
    assert need(LARGE, settings("method=dpo")).total > 2 * lora.activations
    sharded = need(LARGE, settings("method=full", "distributed={strategy: fsdp, processes: 8}"))
    assert sharded.optimizer == full.optimizer / 8 and sharded.activations == full.activations


def test_what_examples_share_and_their_real_lengths_count_once():
    batch = Batch.of([100, 30, 80, 20], rows=2, shared=10)
    assert (batch.longest, batch.tokens) == (100, 100 + 80 - 10)


def test_the_largest_part_that_fits_is_taken_and_checkpointing_only_if_none_does():
    train, lengths = settings("batch_size=16"), [512] * 64
    whole = fit(LARGE, train, lengths, "cuda", "bfloat16", 100e9)
    assert (whole.micro_batch, whole.checkpointing) == (16, False)
    part = fit(LARGE, train, lengths, "cuda", "bfloat16", 30e9)
    assert 1 <= part.micro_batch < 16 and not part.checkpointing and part.needed <= 30e9
    tight = fit(LARGE, train, lengths, "cuda", "bfloat16", 20.5e9)
    assert tight.checkpointing and tight.needed <= 20.5e9
    fixed = fit(LARGE, settings("micro_batch=2", "activation_checkpointing=true"), lengths, "cuda", "bfloat16", 100e9)
    assert (fixed.micro_batch, fixed.checkpointing) == (2, True)


def test_what_does_not_fit_is_told_with_the_keys_that_help_and_what_they_bring():
    train = settings("micro_batch=8", "activation_checkpointing=false", "max_tokens=2048")
    with pytest.raises(TuningError) as told:
        fit(LARGE, train, [2048] * 64, "cuda", "bfloat16", 8e9)
    message = str(told.value)
    assert "and 8.0 GB is free" in message
    for key in ("micro_batch=1", "activation_checkpointing=true", "max_tokens=1024", "method=qlora"):
        assert f"train.{key} needs " in message
    with pytest.raises(TuningError) as told:
        fit(SMALL, settings("method=full"), [64] * 16, "cpu", "float32", 1e9)
    assert "train.method=lora needs " in str(told.value) and "micro_batch" not in str(told.value)


def test_this_machine_is_measured_and_estimated_for():
    machine = this_machine("float32")
    assert machine.tflops > 0 and 0 < free_memory("cpu") < 1e13
    roomy = machine.model_copy(update={"memory_gb": 64})
    found = estimate(SMALL, settings("max_tokens=128"), roomy, "float32", price=2.0, tokens=1e6)
    assert found.fits and found.price == pytest.approx(2 * found.hours)
    tiny = machine.model_copy(update={"memory_gb": 0.1})
    assert not estimate(SMALL, settings(), tiny, "float32", price=2.0, tokens=1e6).fits
