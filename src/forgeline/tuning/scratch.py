"""A new model: an architecture from config with random weights, and a tokenizer trained on the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forgeline.config.schema import Scratch, Train
from forgeline.errors import ModelError
from forgeline.models import LanguageModel
from forgeline.models.load import placement, precision, ready
from forgeline.models.template import set_template
from forgeline.records import Record, read_records
from forgeline.sample import sample
from forgeline.sources.local import nearest

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"


def new_model(config: Train, train: Path, root: Path, seed: int) -> LanguageModel:
    """Return an untrained model, the same for the same configuration, records and seed.

    The tokenizer is a byte-level BPE (Sennrich et al., 2016; Radford et al., 2019) of the texts of the
    records that the model will learn from, and of nothing else; digits stand alone.

    Args:
        config: `scratch` says what to build; `max_examples` how many records count.
        train: the training split.
        root: the project folder, where the chat template lies.
        seed: of the weights and the sample.

    Raises:
        ModelError: if transformers does not know the architecture, or refuses its settings.
    """
    tokenizer = _tokenizer(sample(read_records(train), config.max_examples, seed), config.scratch.vocabulary)
    set_template(tokenizer, root / config.scratch.chat_template)
    return ready(_model(config, tokenizer, seed), tokenizer, placement(config.device))


def _tokenizer(records: Sequence[Record], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Times, prices and numbers are copied digit by digit, whichever of them were frequent.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((message.content for record in records for message in record.messages), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END)


def _model(config: Train, tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    _check_names(config.scratch)
    dtype = torch.bfloat16 if precision(config) == "bfloat16" else torch.float32
    torch.manual_seed(seed)
    try:
        shape = _shape(config.scratch, tokenizer)
        model = AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation="sdpa")
        with torch.no_grad():
            model(input_ids=torch.tensor([[tokenizer.bos_token_id, tokenizer.eos_token_id]]))
    except Exception as error:  # each architecture has its own way to refuse
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"train.scratch.settings do not make a {config.scratch.architecture}: "
            f"{reason[-1].strip() if reason else type(error).__name__}"
        ) from error
    return model.to(placement(config.device))


def _shape(scratch: Scratch, tokenizer: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(
        scratch.architecture,
        **scratch.settings,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _check_names(scratch: Scratch) -> None:
    """Refuse what transformers would take in silence: an unknown setting, or one that the tokenizer decides."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    causal = {name for name, kind in CONFIG_MAPPING.items() if kind in MODEL_FOR_CAUSAL_LM_MAPPING}
    if scratch.architecture not in causal:
        close = nearest(scratch.architecture, causal, "transformers")
        raise ModelError(f"train.scratch.architecture: {scratch.architecture} is no causal language model. {close}")
    kind = CONFIG_MAPPING[scratch.architecture]
    legal = {field.name for field in dataclasses.fields(kind)} | kind.attribute_map.keys()
    legal -= {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "dtype"}
    for name in scratch.settings.keys() - legal:
        close = nearest(name, legal, scratch.architecture)
        raise ModelError(f"train.scratch.settings.{name} is no setting of a {scratch.architecture}. {close}")
