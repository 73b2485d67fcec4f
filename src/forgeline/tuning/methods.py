"""Which weights of a model are trained, by method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forgeline.config.schema import Train
from forgeline.errors import TuningError

WHOLE = {"full", "scratch"}


def trainable(model: Any, config: Train, seed: int, start: Path | None = None) -> Any:
    """Return the model with what `config.method` trains: an adapter beside it, or all of its own weights.

    Args:
        model: the base model.
        config: method and adapter shape.
        seed: of the adapter's initial weights.
        start: the folder of an adapter to go on from, instead of a new one.

    Raises:
        TuningError: if no layer of the model bears a name of `lora.targets`.
    """
    import torch

    from forgeline.models.branches import NAME as ATTENTION
    from forgeline.tuning.fused import fuse

    torch.manual_seed(seed)
    model = model.requires_grad_(True) if config.method in WHOLE else _with_adapter(model, config, start)
    model.train()
    # For good: with activation checkpointing, layers compute again in the backward pass.
    model.config.get_text_config()._attn_implementation = ATTENTION
    if config.activation_checkpointing is True:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fuse(model)
    return model


def _with_adapter(model: Any, config: Train, start: Path | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if start is not None:
        return PeftModel.from_pretrained(model, start, is_trainable=True, autocast_adapter_dtype=False)
    shape = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.targets,
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
        task_type="CAUSAL_LM",
    )
    try:
        # Adapters compute in the base's precision; the optimiser keeps float32 copies of them.
        return get_peft_model(model, shape, autocast_adapter_dtype=False)
    except ValueError as error:
        raise TuningError(
            f"train.lora.targets: {', '.join(config.lora.targets)} fits no layer of {type(model).__name__}; it has "
            f"{', '.join(_linear_layers(model))}, or say all-linear."
        ) from error


def _linear_layers(model: Any) -> Iterable[str]:
    head = model.get_output_embeddings()
    return sorted({name.rpartition(".")[2] for name, layer in model.named_modules() if _is_linear(layer, head)})


def _is_linear(layer: Any, head: Any) -> bool:
    return type(layer).__name__ in {"Linear", "Linear4bit", "Linear8bitLt", "Conv1D"} and layer is not head
