"""Which weights of a model are trained, by method."""

from __future__ import annotations

from typing import Any

from forgeline.config.schema import Train


def trainable(model: Any, config: Train, seed: int) -> Any:
    """Return the model with what `config.method` trains: an adapter beside it, or all of its own weights."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    from forgeline.tuning.fused import fuse

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
    adapted = get_peft_model(model, shape, autocast_adapter_dtype=False).train()
    fuse(adapted)
    return adapted
