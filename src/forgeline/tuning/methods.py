"""Which weights of a model are trained, by method."""

from __future__ import annotations

from typing import Any

from forgeline.config.schema import Train


def trainable(model: Any, config: Train, seed: int) -> Any:
    """Return the model with what `config.method` trains: an adapter beside it, or all of its own weights."""
    from forgeline.tuning.fused import fuse

    adapted = with_adapter(model, config, seed)
    fuse(adapted)
    return adapted


def with_adapter(model: Any, config: Train, seed: int) -> Any:
    """Return the model with a new adapter beside it that can be switched off: its layers are not fused."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.bits != "none":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(seed)
    shape = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.targets,
        task_type="CAUSAL_LM",
    )
    # Adapters compute in the base's precision; the optimiser keeps float32 copies of them.
    return get_peft_model(model, shape, autocast_adapter_dtype=False).train()
