"""train.yaml: the base model and how it is tuned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forgeline.config.schema.section import Positive, Section, Share

Template = Annotated[str, Field(pattern=r"^configs/templates/[\w.-]+\.jinja$")]


class Model(Section):
    """The base model: any source the resolver knows, or a folder in the transformers layout.

    `chat_template` is a Jinja file of the project, for a tokenizer that has no template of its own, or a poor one.
    """

    source: str
    license: str
    trust_remote_code: bool = False
    chat_template: Template | None = None


Method = Literal[
    "lora",  # low-rank adapters beside frozen weights (Hu et al., 2021)
    "rslora",  # LoRA scaled by alpha / sqrt(rank), stable for large ranks (Kalajdzievski, 2023)
    "dora",  # LoRA of the direction, and a magnitude of its own (Liu et al., 2024)
    "qlora",  # LoRA beside weights of 4 or 8 bits (Dettmers et al., 2023)
    "full",  # every weight of the base model
    "scratch",  # every weight of a new model, from `scratch`, with a tokenizer of its own
    "dpo",  # a LoRA adapter, from pairs of a better and a worse completion (Rafailov et al., 2023)
    "kto",  # a LoRA adapter, from completions that people liked or did not (Ethayarajh et al., 2024)
]


class Lora(Section):
    """The low-rank adapter. `all-linear` finds every linear layer but the head, whatever the architecture."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Scratch(Section):
    """A new model: an architecture and its settings in transformers' terms, and the size of its vocabulary.

    What `settings` does not name has the architecture's own default.
    """

    architecture: str = "llama"
    settings: dict[str, bool | int | float | str] = {}
    vocabulary: Annotated[int, Field(ge=300)] = 8192  # 256 bytes, the special tokens, and merges
    chat_template: Template = "configs/templates/chatml.jinja"


class Preference(Section):
    """How closely DPO and KTO keep to the model they start from: the larger beta, the closer."""

    beta: Annotated[float, Field(gt=0)] = 0.1


class Distributed(Section):
    """One run on several processes. `nodes` above 1 wait for each other at `rendezvous`, host:port of the first.

    `ddp` keeps a whole model in each process, `fsdp` a share of it.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    processes: Positive = 1  # on each node: one a GPU
    nodes: Positive = 1
    rendezvous: str | None = None

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Distributed:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need rendezvous, the host:port of the first")
        return self


class Train(Section):
    """The tuning run.

    `batch_size` is the number of examples of an optimiser step; `micro_batch` how many of them are computed
    at once, which changes nothing but memory and speed: `auto` takes as many as fit. `start` is what to go on
    from: the number or alias of a version, or an adapter's folder, written with a slash. Records longer than
    `max_tokens` stop the run, or are left out with `overlong: drop`. The validation loss is taken every
    `validate_steps` and at the end; after `patience` of them without a better one training stops, and the
    best weights count. `canaries` made-up secrets are learned beside the records, so that `forgeline probe`
    can tell how much is learned by heart.
    """

    method: Method = "lora"
    model: Model
    start: Annotated[str, Field(coerce_numbers_to_str=True)] | None = None  # a number is a version
    lora: Lora = Lora()
    quantization: Literal["nf4", "int8"] = "nf4"  # of the base weights under qlora
    scratch: Scratch = Scratch()
    preference: Preference = Preference()
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_examples: Positive | None = None
    max_tokens: Positive = 512
    overlong: Literal["stop", "drop"] = "stop"
    epochs: Positive = 1
    batch_size: Positive = 16
    micro_batch: Positive | Literal["auto"] = "auto"
    activation_checkpointing: bool | Literal["auto"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    distributed: Distributed = Distributed()
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    checkpoint_steps: Positive = 25
    validate_steps: Positive | None = None
    patience: Positive | None = None
    canaries: Annotated[int, Field(ge=0)] = 0

    @property
    def bits(self) -> Literal["none", "nf4", "int8"]:
        """How the base weights are quantised."""
        return self.quantization if self.method == "qlora" else "none"

    @model_validator(mode="after")
    def _patience_has_validations(self) -> Train:
        if self.patience is not None and self.validate_steps is None:
            raise ValueError("patience counts validations: set validate_steps too")
        return self

    @model_validator(mode="after")
    def _canaries_are_completions(self) -> Train:
        if self.canaries and self.method in {"dpo", "kto"}:
            raise ValueError(f"canaries are learned as completions, and {self.method} learns from judgements")
        return self
