"""Load a base model, an adapter on one, or a whole tuned model, in the precision this machine multiplies best."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from platform import uname
from typing import TYPE_CHECKING, Any, Literal

from forgeline.config.schema import Model, Train
from forgeline.errors import ModelError
from forgeline.lineage import value_digest
from forgeline.models.adapter import ADAPTER, check_fits
from forgeline.models.template import with_template
from forgeline.sources import cache_root, resolve

if TYPE_CHECKING:
    import torch

# A folder of base models, each under `base_name` of its source, that count in place of the sources: an image's.
BASES = "FORGELINE_BASES"

# A version of the conversion below: raise it when its output changes.
CONVERSION = 1

Dtype = Literal["auto", "bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]

# bitsandbytes 0.50 on a processor: at import it misses the optional package kernels, and in every int8 layer and
# call it tells of a cast. Nothing else is said by these two.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)


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

    @property
    def vocabulary(self) -> str:
        """The sha256 of all tokens and their ids: losses a token of two models compare only if it is the same."""
        return value_digest(self.tokenizer.get_vocab())


def base_folder(model: Model, root: Path) -> Path:
    """Return the local folder of a base model in the transformers layout (safetensors).

    A GGUF file is dequantised once, into the content-addressed cache. What lies in `$FORGELINE_BASES` is not fetched.

    Raises:
        ModelError: if the source is neither a model folder nor one GGUF file.
    """
    if (bases := os.environ.get(BASES)) and (kept := Path(bases) / base_name(model.source)).is_dir():
        return kept
    paths = resolve(model.source, root)
    if len(paths) == 1 and (paths[0] / "config.json").is_file():
        return paths[0]
    if len(paths) == 1 and paths[0].suffix == ".gguf":
        return _convert_gguf(paths[0], model)
    raise ModelError(
        f"train.model.source: {model.source} gives {', '.join(path.name for path in paths)}: expected a folder "
        "with config.json, or one .gguf file."
    )


def base_name(source: str) -> str:
    """Return the name of a source's folder among an image's base models."""
    return value_digest(source)[:16]


def load_base(config: Train, root: Path, tokenizer: Path | None = None) -> LanguageModel:
    """Return the base model as `train` asks for it: device, precision, quantisation, chat template.

    `tokenizer` is a folder whose tokenizer and chat template count in place of the base's own.

    Raises:
        ModelError: if this machine lacks the device, the tokenizer has no chat template, or the layers
            cannot be quantised.
    """
    from transformers import AutoTokenizer

    folder = base_folder(config.model, root)
    if tokenizer is not None:
        return _load(folder, AutoTokenizer.from_pretrained(tokenizer), config)
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.model.trust_remote_code)
    return _load(folder, with_template(own, config.model, root), config)


def load_tuned(config: Train, folder: Path, root: Path) -> LanguageModel:
    """Return what was tuned, ready for inference, with the tokenizer and chat template that lie beside it.

    An adapter is merged into its base: a reply takes a third less time. Weights of 4 or 8 bits cannot
    take it in and keep it beside them. A whole model needs no base.

    Raises:
        ModelError: if the folder holds neither, or an adapter that was made for another base.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    if not (folder / ADAPTER).is_file():
        return load_whole(folder, config.dtype, config.device, trust_remote_code=config.model.trust_remote_code)
    below = base_folder(config.model, root)
    check_fits(folder, outline(below, trust_remote_code=config.model.trust_remote_code), config.model.source)
    base = _load(below, AutoTokenizer.from_pretrained(folder), config)
    model = PeftModel.from_pretrained(base.model, folder)
    if config.bits == "none":
        model = model.merge_and_unload()
    return LanguageModel(model.eval(), base.tokenizer, base.device)


def load_whole(
    folder: Path, dtype: Dtype = "auto", device: Device = "auto", *, trust_remote_code: bool = False
) -> LanguageModel:
    """Return a model that was tuned whole, from its own folder.

    Raises:
        ModelError: if the folder holds none.
    """
    from transformers import AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds neither an adapter ({ADAPTER}) nor a model (config.json): train it again.")
    where = placement(device)
    options = {"dtype": _dtype(dtype, where), "trust_remote_code": trust_remote_code}
    return ready(_weights(folder, **options).to(where), AutoTokenizer.from_pretrained(folder), where)


def ready(model: Any, tokenizer: Any, device: str) -> LanguageModel:
    """Return a model and its tokenizer as the rest of the library expects them: padding agreed, in evaluation mode."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # For a slice such as the last position, torch 2.13 copies the whole head once a row: 12 s for 96 prompts.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return LanguageModel(model.eval(), tokenizer, torch.device(device))


def placement(device: Device) -> Literal["cpu", "cuda"]:
    """Return where models run on this machine, `auto` decided; raise ModelError if the device is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("train.device is cuda, but no CUDA GPU is visible here: set train.device=cpu or auto.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def precision(config: Train) -> Literal["bfloat16", "float32"]:
    """Return the precision that a model is loaded in on this machine, `auto` decided."""
    import torch

    return "bfloat16" if _dtype(config.dtype, placement(config.device)) == torch.bfloat16 else "float32"


def outline(folder: Path, *, trust_remote_code: bool) -> Any:
    """Return a model's layers without their weights, which are not read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, trust_remote_code=trust_remote_code)


def _load(folder: Path, tokenizer: Any, config: Train) -> LanguageModel:
    device = placement(config.device)
    dtype = _dtype(config.dtype, device)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": config.model.trust_remote_code}
    if config.bits == "none":
        model = _weights(folder, **options).to(device)
    else:
        _check_quantisable(folder, config)
        options["quantization_config"] = _quantization(config.bits, dtype)
        model = _weights(folder, **options, device_map={"": device})
    model.name_or_path = config.model.source  # what an adapter will say it was made for
    return ready(model, tokenizer, device)


def _weights(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation="sdpa",  # eager is 5 to 10 times slower in bfloat16 on CPUs
        use_safetensors=True,
        **options,
    )


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


def _dtype(dtype: Dtype, device: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        return torch.bfloat16 if dtype == "bfloat16" else torch.float32
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if fastest_precision() == "bfloat16" else torch.float32


@cache
def fastest_precision() -> Literal["bfloat16", "float32"]:
    """Return the precision in which this processor multiplies matrices faster; bfloat16 only if clearly so.

    Measured, in a tenth of a second, and once for a machine: processors that name the instructions may take
    twice as long for them as for float32, and a repeated run must find the same answer.
    """
    import torch

    processor = [torch.__version__, dict(torch.cpu.get_capabilities()), uname().node]
    record = cache_root() / "precision" / value_digest(processor)[:16]
    if record.is_file():
        return "bfloat16" if record.read_text() == "bfloat16" else "float32"
    seconds: dict[Literal["bfloat16", "float32"], float] = {}
    for name in ("bfloat16", "float32"):
        square = torch.ones(768, 768, dtype=getattr(torch, name))
        stamps = [(torch.mm(square, square), time.perf_counter())[1] for _ in range(12)]
        seconds[name] = min(later - earlier for earlier, later in pairwise(stamps))
    fastest: Literal["bfloat16", "float32"] = "float32"
    if seconds["bfloat16"] < 0.8 * seconds["float32"]:
        fastest = "bfloat16"
    record.parent.mkdir(parents=True, exist_ok=True)
    partial = record.with_name(f"{record.name}.{os.getpid()}.part")
    partial.write_text(fastest)
    os.replace(partial, record)
    return fastest


def _check_quantisable(folder: Path, config: Train) -> None:
    from transformers.pytorch_utils import Conv1D

    model = outline(folder, trust_remote_code=config.model.trust_remote_code)
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise ModelError(
            f"train.method is qlora, but the layers of {config.model.source} ({type(model).__name__}) are Conv1D, for "
            "which bitsandbytes has no 4- or 8-bit kind: set train.method=lora."
        )


def _quantization(bits: Literal["nf4", "int8"], dtype: torch.dtype) -> Any:
    """Return NF4 with quantised scales (Dettmers et al., 2023), or LLM.int8 (Dettmers et al., 2022)."""
    from transformers import BitsAndBytesConfig

    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
