"""Whether an adapter fits a base, told from names and shapes before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forgeline.errors import ModelError

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def base_of(folder: Path) -> str:
    """Return the source of the base that an adapter says it was made for.

    Raises:
        ModelError: if it does not say.
    """
    source = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not source:
        raise ModelError(f"{folder / ADAPTER} names no base model: write BASE+{folder}.")
    return str(source)


def check_fits(folder: Path, base: Any, source: str) -> None:
    """Return if an adapter's tensors are those that the base, a model without weights, would have.

    Args:
        folder: of the adapter.
        base: the base model's layers on the meta device; they get the adapter's.
        source: what the base is called.

    Raises:
        ModelError: if the adapter is damaged, or was made for another base.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        settings = PeftConfig.from_pretrained(folder)
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} is no intact adapter ({reason}): train it again.") from error
    misfit = f"{folder} was made for {settings.base_model_name_or_path} and does not fit {source}"
    try:
        adapted = PeftModel(base, settings, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ModelError(f"{misfit}: none of the layers that it adapts is there.") from error
    expected = {
        name: tuple(weight.shape)
        for name, weight in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
    }
    if found != expected:
        name = min(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ModelError(f"{misfit}: its {name} has the shape {found.get(name)}, not {expected.get(name)}.")
