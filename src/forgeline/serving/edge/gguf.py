"""A model in one GGUF file, as llama.cpp reads it: weights, tokenizer and chat template.

Source of names and layouts: the `gguf` package's own tables, and llama.cpp's `convert_hf_to_gguf.py` (rows of query and
key projections stand in the order of the original LLaMA, not in that of transformers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from forgeline.errors import ServingError
from forgeline.models import LanguageModel

GgufWeights = Literal["f16", "q8_0", "q4_0"]
ARCHITECTURE = "llama"
QUANTIZED = 2  # the version of the quantised blocks' layout that the package writes


def write(language_model: LanguageModel, path: Path, weights: GgufWeights) -> None:
    """Write a model with merged weights to one file; norms stay float32, embeddings no less than 8 bits.

    Raises:
        ServingError: if the model or its tokenizer is of a kind that this does not write.
    """
    import gguf

    config = language_model.model.config.get_text_config()
    if config.model_type != ARCHITECTURE:
        raise ServingError(f"GGUF files are written of {ARCHITECTURE} models here, and this is {config.model_type}.")
    pre = _pre_tokenizer(language_model.tokenizer)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _describe(writer, config, weights)
    _add_tokenizer(writer, language_model, pre, config.vocab_size)
    _add_weights(writer, language_model.model, config, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: Any, weights: GgufWeights) -> None:
    import gguf

    kinds = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ServingError(f"GGUF files are written here without the rotary scaling {rope['rope_type']}.")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(int(gguf.LlamaFileType[kinds[weights]]))
    writer.add_quantization_version(QUANTIZED)


def _add_tokenizer(writer: Any, language_model: LanguageModel, pre: str, size: int) -> None:
    import gguf

    tokenizer = language_model.tokenizer
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = {number: token for token, number in tokenizer.get_vocab().items()}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([ids.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(
        [kind.CONTROL if n in special else kind.NORMAL if n in ids else kind.UNUSED for n in range(size)]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(language_model.stop_ids[-1])
    writer.add_add_bos_token(False)  # the chat template says how a prompt begins
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def _add_weights(writer: Any, model: Any, config: Any, weights: GgufWeights) -> None:
    import gguf
    import torch

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    kinds = gguf.GGMLQuantizationType
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        told = names.get_name(name, try_suffixes=(".weight",))
        if told is None:
            raise ServingError(f"GGUF has no name for the weights {name}.")
        values = tensor.detach().to(torch.float32).cpu().numpy()
        if name.endswith("q_proj.weight"):
            values = _reordered(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _reordered(values, config.num_key_value_heads)
        kind = kinds[weights.upper()]
        if values.ndim == 1:
            kind = kinds.F32
        elif weights == "q4_0" and name.endswith(("embed_tokens.weight", "lm_head.weight")):
            kind = kinds.Q8_0
        writer.add_tensor(told, gguf.quants.quantize(values, kind), raw_dtype=kind)


def _reordered(values: Any, heads: int) -> Any:
    """Return a projection's rows so that the two halves of each head, which rotate together, alternate."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _pre_tokenizer(tokenizer: Any) -> str:
    """Return what GGUF calls the way that this tokenizer splits a text before it merges bytes."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    split = parts["pre_tokenizer"] or {}
    steps = [each["type"] for each in split.get("pretokenizers", [split])]
    bytes_alone = {"add_prefix_space": False, "use_regex": True}
    last = split.get("pretokenizers", [split])[-1]
    if parts["model"]["type"] == "BPE" and bytes_alone.items() <= last.items():
        if steps == ["ByteLevel"]:
            return "gpt-2"
        if steps == ["Digits", "ByteLevel"]:
            return "smollm"
    raise ServingError(f"GGUF files are written of byte-level BPE tokenizers here, and this one is {', '.join(steps)}.")
