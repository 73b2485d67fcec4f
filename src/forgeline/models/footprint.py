"""What training a model takes before it is tried: parameters, FLOPs and bytes, from its sizes alone.

The activations are those that the training loop keeps: see models/branches.py and tuning/fused.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forgeline.config.catalogue import Architecture
from forgeline.config.schema import Train

Device = Literal["cpu", "cuda"]
Precision = Literal["bfloat16", "float32"]

BYTES = {"bfloat16": 2, "float32": 4}
# Bytes of a quantised weight: 4 bits and a constant of 8 for 64 of them (Dettmers et al., 2023); 8 bits.
QUANTISED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# Keys up to which a processor keeps every score of attention for the backward pass.
KEPT_SCORES = 1024
# Bytes of the vocabulary's scores, their exponentials and gradients that exist at once.
SCORES = {"cpu": 64e6, "cuda": 1.1e9}
# Bytes that the libraries take once they work, and what the allocator wastes of a byte of activations: batches
# of other sizes leave holes (benchmarks/memory_estimate.py).
LIBRARIES, WASTE = {"cpu": 0.25e9, "cuda": 0.6e9}, {"cpu": 0.3, "cuda": 0.08}
WHOLE = frozenset({"full", "scratch"})
PREFERENCES = frozenset({"dpo", "kto"})
# Architectures whose gated layers are one node (tuning/fused.py), which computes the activation again.
FUSED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only transformer; `linear` counts the weights of its blocks' matrices.

    Norms and biases, below a thousandth of all weights, are left out.
    """

    type: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    linear: int

    @staticmethod
    def of(config: Any) -> Shape:
        """Return the shape of a transformers config, its matrices counted on a model without storage."""
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        embeddings = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
        return Shape(
            type=text.model_type,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=head_dim,
            vocabulary=text.vocab_size,
            tied=text.tie_word_embeddings,
            linear=sum(weight.numel() for weight in model.parameters() if weight.dim() > 1) - embeddings,
        )

    @staticmethod
    def of_entry(sizes: Architecture) -> Shape:
        """Return the shape that a catalogue entry states."""
        values = sizes.model_dump()
        shape = Shape(**values, linear=0)
        block = sum(rows * columns for rows, columns in (shape.widths[name] for name in BLOCK))
        return Shape(**values, linear=shape.layers * block)

    @property
    def embeddings(self) -> int:
        """Weights of the token embeddings and of the head, which a tied model has once."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear + self.embeddings

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a block's linear layers, by the names that architectures give them."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "qkv_proj": (self.hidden, queries + 2 * keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "gate_up_proj": (self.hidden, 2 * self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def targets(self, train: Train) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer of a block that an adapter stands beside; of all if a name is unknown."""
        named = train.lora.targets
        known = named != "all-linear" and set(named) <= self.widths.keys()
        return [self.widths[name] for name in (named if known else BLOCK)]

    def trained(self, train: Train) -> int:
        """Return how many weights a method trains."""
        if train.method in WHOLE:
            return self.parameters
        magnitudes = 1 if train.method == "dora" else 0
        block = sum(
            train.lora.rank * (inputs + outputs) + magnitudes * outputs for inputs, outputs in self.targets(train)
        )
        return self.layers * block

    def flops(self, train: Train, context: float, labelled: float = 1.0) -> float:
        """Return the training FLOPs of a token in a causal sequence of `context` tokens.

        4 for each frozen weight and 6 for each trained one, 3 times the products of attention, and the
        head for the share `labelled` of tokens that carry a label. What checkpointing computes twice counts once.
        """
        whole = train.method in WHOLE
        blocks = 6 * self.linear if whole else 4 * self.linear + 6 * self.trained(train)
        attention = 3 * 4 * self.layers * self.heads * self.head_dim * context / 2
        head = (6 if whole else 4) * self.vocabulary * self.hidden * labelled
        return blocks + attention + head


@dataclass(frozen=True)
class Batch:
    """Examples computed at once: how many, the longest in tokens, all tokens, and the leading ones that all share.

    `tokens` counts what linear layers see: nothing is padded, and what is shared is read once.
    """

    rows: int
    longest: int
    tokens: int
    shared: int = 0

    @staticmethod
    def of(lengths: Sequence[int], rows: int, shared: int = 0) -> Batch:
        """Return the largest batch that `rows` of the examples of these lengths can make: the longest together."""
        longest = sorted(lengths, reverse=True)[:rows]
        shared = shared if rows > 1 else 0
        return Batch(len(longest), longest[0], sum(longest) - (len(longest) - 1) * shared, shared)


@dataclass(frozen=True)
class Memory:
    """The bytes that a training run takes at its peak, on one device, by what takes them."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    scores: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.optimizer + self.gradients + self.activations + self.scores + self.overhead


def training_memory(
    shape: Shape, train: Train, batch: Batch, device: Device, precision: Precision, checkpointing: bool = False
) -> Memory:
    """Return the estimated peak memory of training, the model's own weights included.

    Under fsdp each process holds its share of weights, gradients and optimiser state, and gathers a block
    at a time; DPO and KTO are taken to score every position of twice the rows, without chunks.
    """
    size, trained = BYTES[precision], shape.trained(train)
    if train.method in PREFERENCES:
        batch = Batch(2 * batch.rows, batch.longest, 2 * batch.rows * batch.longest)
    matrices = QUANTISED[train.quantization] if train.method == "qlora" else size
    weights: float = matrices * shape.linear + size * shape.embeddings
    if train.method not in WHOLE:
        weights += size * trained
    optimizer: float = (8 if size == 4 else 4 + 8) * trained  # two moments of AdamW, and float32 copies of others
    gradients: float = size * trained
    if train.distributed.strategy == "fsdp":
        processes = train.distributed.processes * train.distributed.nodes
        gathered = 2 * size * shape.linear / shape.layers
        weights, optimizer, gradients = weights / processes + gathered, optimizer / processes, gradients / processes
    block = _kept(shape, train, batch, device, size)
    entries = size * batch.tokens * shape.hidden
    activations = shape.layers * entries + block if checkpointing else shape.layers * block
    activations += _passing(shape, train, batch, size)
    scores = SCORES[device]
    if train.method in PREFERENCES:
        scores = batch.tokens * shape.vocabulary * (size + 2 * 4)
    elif train.method in WHOLE:
        scores += 2 * 4 * shape.vocabulary * shape.hidden  # the head's own gradient, and its scaled copy
    overhead = LIBRARIES[device] + WASTE[device] * activations
    return Memory(weights, optimizer, gradients, activations, scores, overhead)


def _kept(shape: Shape, train: Train, batch: Batch, device: Device, size: int) -> float:
    """Return the bytes that one block keeps for the backward pass."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Inputs and outputs of two norms; queries and what they found; gate, up and their product, and gate activated.
    wide = 3 if shape.type in FUSED else 4
    token = size * (4 * shape.hidden + 2 * queries + wide * shape.intermediate + train.lora.rank * len(BLOCK))
    if train.method not in WHOLE:
        inputs, outputs = (sum(side) for side in zip(*shape.targets(train), strict=True))
        token += (size + 1) * inputs if train.lora.dropout else 0  # each adapter's thinned input, and a mask
        token += 2 * size * outputs if train.method == "dora" else 0  # the two outputs that magnitudes scale
    kept = batch.tokens * token + 2 * size * batch.rows * batch.longest * keys
    if device == "cpu" and batch.longest <= KEPT_SCORES:
        own = batch.longest - batch.shared
        scores = batch.rows * own * batch.longest + batch.shared**2
        kept += shape.heads * scores * (4 if size == 4 else 4 + size)  # softmax in float32, and rounded
    return kept


def _passing(shape: Shape, train: Train, batch: Batch, size: int) -> float:
    """Return the bytes that pass through while one block is computed: gradients, and a matrix in full precision."""
    gradients = 3 * size * batch.tokens * shape.intermediate
    matrix = shape.hidden * shape.intermediate * size
    return gradients + (matrix if train.method in {"qlora", "dora"} else 0)
