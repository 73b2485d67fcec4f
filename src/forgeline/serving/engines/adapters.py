"""More LoRA adapters on a bundle's base, in one process: tokens of different adapters share a forward pass.

All adapters of a layer stand side by side, as if they were one of a higher rank, and a mask leaves each token its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forgeline.config.schema import Train
from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.models import LanguageModel, base_folder, load_base
from forgeline.models.adapter import ADAPTER, base_of, check_fits
from forgeline.models.load import outline
from forgeline.prompting import Prompter
from forgeline.serving.bundle import MANIFEST, TUNED, Manifest, prompter, verify


@dataclass(frozen=True)
class Adapter:
    """One adapter as callers see it: its number, its tokenizer and what rewrites its requests."""

    number: int
    tokenizer: Any
    prompter: Prompter | None


class Switch:
    """Which adapter each token of a pass is for."""

    def __init__(self) -> None:
        self._tokens = torch.empty(0)
        self._masks: dict[tuple[tuple[int, float], ...], torch.Tensor] = {}

    def set(self, tokens: torch.Tensor) -> None:
        """Say it for the next pass: (tokens) numbers of adapters."""
        self._tokens, self._masks = tokens, {}

    def mask(self, shape: tuple[tuple[int, float], ...], like: torch.Tensor) -> torch.Tensor:
        """Return (tokens, ranks) factors of adapters with these ranks and scalings: zero for what is another's."""
        if shape not in self._masks:  # most layers have the same
            numbers = [number for number, (rank, _) in enumerate(shape) for _ in range(rank)]
            factors = [scaling for rank, scaling in shape for _ in range(rank)]
            own = self._tokens[:, None] == torch.tensor(numbers, device=like.device)
            self._masks[shape] = own.to(like.dtype) * torch.tensor(factors, dtype=like.dtype, device=like.device)
        return self._masks[shape]


class Adapted(torch.nn.Module):
    """A linear layer and its adapters, made of a layer that peft has loaded them into."""

    def __init__(self, layer: Any, names: list[str], switch: Switch, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = layer.get_base_layer()
        self._switch = switch
        here = [name for name in names if name in layer.lora_A]
        ranks = {name: len(layer.lora_A[name].weight) for name in here}
        self._shape = tuple((ranks.get(name, 0), layer.scaling.get(name, 0.0)) for name in names)
        self.down = _linear(torch.cat([layer.lora_A[name].weight for name in here]).to(dtype))
        self.up = _linear(torch.cat([layer.lora_B[name].weight for name in here], dim=1).to(dtype))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the layer's product with what each token's adapter adds to it."""
        added: torch.Tensor = self.up(self.down(states) * self._switch.mask(self._shape, states))
        return added.add_(self.base(states))


def load(
    paths: Mapping[str, str], bundle: Path, manifest: Manifest, root: Path, signing: Signing
) -> tuple[LanguageModel, dict[str, Adapter], Switch]:
    """Return a verified bundle's base with the adapters at `paths`, bundles or folders below `root`, by their names.

    Unlike a bundle's own adapter they are not merged: in bfloat16 a reply can differ from a merged one's by rounding.

    Raises:
        ServingError: if one is not a plain LoRA adapter on the very same base, or not signed as `signing` asks.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    if manifest.base is None or manifest.base_digest is None:
        raise ServingError(
            f"serve.engine.adapters: {bundle} is a whole model: only an adapter's base takes more of them."
        )
    if manifest.lineage.model in paths:
        raise ServingError(f"serve.engine.adapters: {manifest.lineage.model} is the bundle's own name: choose another.")
    settings = Train(
        model=manifest.base, method=manifest.method, quantization=manifest.quantization, dtype=manifest.dtype
    )
    folders = {name: _checked(name, root / path, manifest, root, signing) for name, path in paths.items()}
    base = load_base(settings, root, bundle / TUNED)
    model: Any = base.model
    for number, (name, folder) in enumerate(folders.items()):
        if number:
            model.load_adapter(folder, name)
        else:
            model = PeftModel.from_pretrained(model, folder, name)
    switch = Switch()
    _adapt(model.get_base_model(), list(folders), switch, base.model.dtype)
    adapters = {
        name: Adapter(number, AutoTokenizer.from_pretrained(folder), prompter(folder.parent))
        for number, (name, folder) in enumerate(folders.items())
    }
    return LanguageModel(model.get_base_model().eval(), base.tokenizer, base.device), adapters, switch


def _checked(name: str, path: Path, manifest: Manifest, root: Path, signing: Signing) -> Path:
    """Return the folder of an adapter's weights; it must be made for the base of the manifest."""
    from peft import LoraConfig, PeftConfig

    assert manifest.base is not None  # noqa: S101
    where = f"serve.engine.adapters.{name}: {path}"
    folder = path
    if (path / MANIFEST).is_file():
        folder = path / TUNED
        if verify(path, signing).base_digest != manifest.base_digest:
            raise ServingError(f"{where} was made for another base than the served bundle's, {manifest.base.source}.")
    elif signing.required:
        raise ServingError(f"{where} is not a bundle, so nobody signed it, which serve.signing.required asks for.")
    if not (folder / ADAPTER).is_file():
        raise ServingError(f"{where} holds no adapter ({ADAPTER}).")
    if base_of(folder) != manifest.base.source:
        raise ServingError(f"{where} was made for {base_of(folder)}, the served bundle for {manifest.base.source}.")
    own_code = manifest.base.trust_remote_code
    check_fits(folder, outline(base_folder(manifest.base, root), trust_remote_code=own_code), manifest.base.source)
    kind = PeftConfig.from_pretrained(folder)
    plain = isinstance(kind, LoraConfig) and kind.bias == "none" and not kind.lora_bias
    if not plain or kind.use_dora or kind.modules_to_save or kind.trainable_token_indices:
        raise ServingError(f"{where} is more than a plain LoRA adapter: deploy it as a bundle of its own.")
    return folder


def _adapt(model: torch.nn.Module, names: list[str], switch: Switch, dtype: torch.dtype) -> None:
    from peft.tuners.lora import LoraLayer

    for place, layer in [each for each in model.named_modules() if isinstance(each[1], LoraLayer)]:
        if not layer.lora_A:
            raise ServingError(f"serve.engine.adapters: {place} is an embedding's adapter: deploy it as a bundle.")
        model.set_submodule(place, Adapted(layer, names, switch, dtype))


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    out, into = weight.shape
    linear = torch.nn.Linear(into, out, bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    return linear
