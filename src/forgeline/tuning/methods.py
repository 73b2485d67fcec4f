"""Which weights of a model are trained, by method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forgeline.config.schema import Train
from forgeline.errors import ModelError, TuningError
from forgeline.models.adapter import ADAPTER, check_fits
from forgeline.models.footprint import WHOLE
from forgeline.models.load import base_folder, outline
from forgeline.tuning.team import layers


def trainable(model: Any, config: Train, seed: int, root: Path) -> Any:
    """Return the model with what `config.method` trains: an adapter beside it, or all of its own weights.

    Args:
        model: the base model.
        config: method and adapter shape, or the adapter to go on from.
        seed: of the adapter's initial weights.
        root: the project folder, where `config.start` lies.

    Raises:
        TuningError: if no layer of the model bears a name of `lora.targets`.
        ModelError: if `config.start` holds no adapter, or one made for another base.
    """
    from forgeline.models.branches import NAME as ATTENTION
    from forgeline.tuning.fused import fuse

    model = model.requires_grad_(True) if config.method in WHOLE else with_adapter(model, config, seed, root)
    model.train()
    # For good: with activation checkpointing, layers compute again in the backward pass.
    model.config.get_text_config()._attn_implementation = ATTENTION
    if config.activation_checkpointing is True:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fuse(model)
    if config.compile is True or (config.compile == "auto" and model.device.type == "cuda"):
        for layer in layers(model):  # on a processor compiling takes minutes and brings a tenth
            layer.compile()
    return model


def with_adapter(model: Any, config: Train, seed: int, root: Path) -> Any:
    """Return the model with an adapter beside it that can be switched off: nothing is fused."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    if config.start is not None:
        folder = root / config.start
        if not (folder / ADAPTER).is_file():
            raise ModelError(f"train.start: {folder} holds no adapter ({ADAPTER} is missing).")
        base = base_folder(config.model, root)
        check_fits(folder, outline(base, trust_remote_code=config.model.trust_remote_code), config.model.source)
        return PeftModel.from_pretrained(model, folder, is_trainable=True, autocast_adapter_dtype=False)
    torch.manual_seed(seed)
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
