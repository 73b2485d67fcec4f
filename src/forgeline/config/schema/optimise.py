"""optimise.yaml: the variants of a bundle that are made and measured beside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forgeline.config.schema.section import Name, Positive, Section
from forgeline.config.schema.serve.engine import OpenvinoWeights

Part = Annotated[float, Field(gt=0, lt=1)]


class Merged(Section):
    """The adapter's weights added to the base's, as a bundle that needs no base."""

    kind: Literal["merged"]


class Pruned(Section):
    """The merged model with a `share` of it taken out, without training it again.

    `magnitude` sets the smallest weights of each matrix to zero (Han et al., 2015): no smaller and no faster by itself.
    `structured` takes out the feed-forward neurons that say least in training conversations, and the model is smaller.
    """

    kind: Literal["magnitude", "structured"]
    share: Part


class OpenvinoForm(Section):
    """What `serve.engine.name: openvino` serves: 32 bits, 8 or 4."""

    kind: Literal["openvino"]
    weights: OpenvinoWeights


class OnnxForm(Section):
    """What ONNX Runtime runs, on any processor and in many languages: 32 bits, 8 or 4."""

    kind: Literal["onnx"]
    weights: Literal["fp32", "int8", "int4"]


class GgufForm(Section):
    """One file for llama.cpp, which the edge package holds."""

    kind: Literal["gguf"]
    weights: Literal["f16", "q8_0", "q4_0"]


class TensorrtForm(Section):
    """A recipe for TensorRT-LLM: files and commands that need an NVIDIA GPU and are not run."""

    kind: Literal["tensorrt"]
    dtype: Literal["bfloat16", "float16"] = "bfloat16"


Forms = Merged | Pruned | OpenvinoForm | OnnxForm | GgufForm | TensorrtForm
FormSettings = Annotated[Forms, Field(discriminator="kind")]


class Optimise(Section):
    """What is made of a bundle, and how its cost is measured.

    In each of `rounds`, every variant in turn answers `prompts` test prompts for each number of `clients`, with replies
    of at most `max_tokens`; medians count. `openvino` and `llama` are the environments of exporter and llama.cpp.
    """

    rounds: Positive = 3
    clients: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 8)
    prompts: Positive = 16
    max_tokens: Positive = 32
    openvino: str = ".forgeline/engines/openvino-export"
    llama: str = ".forgeline/engines/llama"
    variants: Annotated[dict[Name, FormSettings], Field(min_length=1)]
