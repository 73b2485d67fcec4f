"""Load a base model, bare or with an adapter, in the precision this machine multiplies best."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forgeline.config.schema import Model, Train
from forgeline.errors import ModelError
from forgeline.lineage import value_digest
from forgeline.sources import cache_root, resolve

if TYPE_CHECKING:
    import torch

# A version of the conversion below: raise it when its output changes.
CONVERSION = 1


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, the tokenizer that holds its chat template, and where it runs."""

    model: Any
    tokenizer: Any
    device: torch.device

    @property
    def stop_ids(self) -> list[int]:
        """The token ids that end a reply."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return sorted({self.tokenizer.eos_token_id, *ids} - {None})


def base_folder(model: Model, root: Path) -> Path:
    """Return the local folder of a base model in the transformers layout (safetensors).

    A GGUF file is dequantised once, into the content-addressed cache.

    Raises:
        ModelError: if the source is neither a model folder nor one GGUF file.
    """
    paths = resolve(model.source, root)
    if len(paths) == 1 and (paths[0] / "config.json").is_file():
        return paths[0]
    if len(paths) == 1 and paths[0].suffix == ".gguf":
        return _convert_gguf(paths[0], model)
    raise ModelError(
        f"train.model.source: {model.source} gives {', '.join(path.name for path in paths)}: expected a folder "
        "with config.json, or one .gguf file."
    )


def load_base(config: Train, root: Path) -> LanguageModel:
    """Return the base model as `train` asks for it: device, precision, quantisation.

    Raises:
        ModelError: if this machine lacks the device, or the tokenizer has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = base_folder(config.model, root)
    device = _device(config)
    dtype = _dtype(config, device)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
    if tokenizer.chat_template is None:
        raise ModelError(f"{folder}: the tokenizer has no chat template; choose an instruction-tuned base model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    options: dict[str, Any] = {}
    if config.bits == "nf4":
        options["quantization_config"] = _nf4(device)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="sdpa",  # eager is 5 to 10 times slower in bfloat16 on CPUs
        use_safetensors=True,
        trust_remote_code=config.model.trust_remote_code,
        **options,
    )
    if not options:
        model.to(device)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # For a slice such as the last position, torch 2.13 copies the whole head once a row: 12 s for 96 prompts.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return LanguageModel(model.eval(), tokenizer, torch.device(device))


def precision(config: Train) -> Literal["bfloat16", "float32"]:
    """Return the precision that a model is loaded in on this machine, `auto` decided."""
    import torch

    return "bfloat16" if _dtype(config, _device(config)) == torch.bfloat16 else "float32"


def load_tuned(config: Train, adapter: Path, root: Path) -> LanguageModel:
    """Return the base model with a trained LoRA adapter merged into its weights, ready for inference.

    Merged, a reply takes a third less time; 4-bit weights cannot take an adapter in and keep it beside them.

    Raises:
        ModelError: if the folder holds no adapter, or one that was made for another base.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} holds no adapter (adapter_config.json is missing): train it again.")
    base = load_base(config, root)
    try:
        model = PeftModel.from_pretrained(base.model, adapter)
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{adapter} is damaged, or was made for another base than {config.model.source}: {reason}"
        ) from error
    if config.bits == "none":
        model = model.merge_and_unload()
    return LanguageModel(model.eval(), base.tokenizer, base.device)


def _convert_gguf(path: Path, model: Model) -> Path:
    import torch
    from filelock import FileLock
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache_root() / "models" / value_digest([model.source, CONVERSION])[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        converted = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        # transformers 5.23 takes a dequantised GGUF model for a quantised one and will not save it.
        converted.hf_quantizer = None
        converted.is_quantized = False
        del converted.config.quantization_config
        converted.generation_config.eos_token_id = tokenizer.eos_token_id
        converted.generation_config.pad_token_id = tokenizer.pad_token_id
        partial = folder.with_name(folder.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        converted.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    return folder


def _device(config: Train) -> str:
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("train.device is cuda, but no CUDA GPU is visible here: set train.device=cpu or auto.")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def _dtype(config: Train, device: str) -> torch.dtype:
    import torch

    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if native else torch.float32


def _nf4(device: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if device == "cpu":
        # bitsandbytes 0.50 on CPUs: after an evaluation its 4-bit layers silently stop learning.
        raise ModelError("train.method is qlora, which needs a CUDA GPU: set train.method=lora.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
