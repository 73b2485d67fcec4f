"""A bundle in ONNX, by the builder and the runtime of onnxruntime-genai 0.18: to be measured, and taken elsewhere."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.models import LanguageModel
from forgeline.serving.bundle import TUNED, Manifest, prompter
from forgeline.serving.engines import GenerationRequest, Piece, RequestRefused
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.prompt import tokenised
from forgeline.serving.engines.text import Spoken
from forgeline.serving.variant import Form, Variant

LAST_WORDS = 500  # characters
ROWS = 32
SEEDS = 2**31  # what the runtime takes


def form(weights: str) -> Form:
    """Return the form of a variant in these weights: `fp32`, or `int8` or `int4` in blocks of 32 with a scale each.

    Raises:
        ServingError: if what makes and runs it is not installed.
    """
    return Form("onnx", weights, release())


def release() -> str:
    """Return the release of onnxruntime-genai.

    Raises:
        ServingError: if it is not installed.
    """
    try:
        return installed("onnxruntime-genai")
    except PackageNotFoundError:
        raise ServingError("ONNX Runtime is not installed: pip install 'forgeline[onnx]'.") from None


def write(language_model: LanguageModel, manifest: Manifest, out: Path, weights: str) -> None:
    """Write a bundle's whole model as `model.onnx` and what describes it.

    Raises:
        ServingError: if the builder does not know models of its architecture.
    """
    if manifest.base is not None and manifest.base.trust_remote_code:
        raise ServingError("The builder for ONNX runs no code of a model's own.")
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        merged, cache = Path(scratch) / "merged", Path(scratch) / "cache"
        language_model.model.save_pretrained(merged)
        language_model.tokenizer.save_pretrained(merged)
        paths = ["-i", str(merged), "-o", str(out), "-c", str(cache)]
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *paths, "-p", weights, "-e", "cpu"]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    if done.returncode:
        raise ServingError(f"The model cannot be written as ONNX: {done.stderr.strip()[-LAST_WORDS:]}")


@dataclass(frozen=True)
class Reply:
    """One request on its way: what has been said so far, and the runtime's generator of the rest."""

    spoken: Spoken
    generator: Any


class Turns:
    """A verified variant and the requests that it answers, each by itself: a token each in turn.

    The library's own batching on a processor keeps all rows of a batch until its last has ended.
    """

    models: tuple[str, ...] = ()
    gives_logprobs = False

    def __init__(self, folder: Path, variant: Variant, bundle: Path) -> None:
        self._folder = folder
        self._variant = variant
        self._bundle = bundle
        self._replies: dict[Job, Reply] = {}

    def load(self) -> None:
        """Read the model."""
        import onnxruntime_genai
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(self._bundle / TUNED)
        self._prompter = prompter(self._bundle)
        self._model = onnxruntime_genai.Model(str(self._folder))

    def room(self) -> bool:
        """Whether another request can be added now."""
        return len(self._replies) < ROWS

    def add(self, job: Job) -> None:
        """Take a request on: its whole prompt is read at once."""
        import onnxruntime_genai

        if job.request.model is not None:
            raise RequestRefused(f"There is no model {job.request.model} here.")
        prompt = tokenised(self._tokenizer, self._variant.context, job.request, self._prompter)
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        parameters.set_search_options(**_search(job.request, len(prompt.tokens)))
        generator = onnxruntime_genai.Generator(self._model, parameters)
        generator.append_tokens(prompt.tokens)
        spoken = Spoken(self._tokenizer, self._variant.stop_ids, job.request, prompt)
        self._replies[job] = Reply(spoken, generator)

    def drop(self, job: Job) -> None:
        """Forget a request."""
        self._replies.pop(job, None)

    def busy(self) -> bool:
        """Whether there is anything to move on."""
        return bool(self._replies)

    def step(self) -> Iterator[tuple[Job, Piece | Exception]]:
        """Move every request on by a token."""
        for job, reply in list(self._replies.items()):
            reply.generator.generate_next_token()
            piece = reply.spoken.add(int(reply.generator.get_next_tokens()[0]))
            if piece.finish_reason:
                self.drop(job)
            yield job, piece


def _search(request: GenerationRequest, prompt: int) -> dict[str, Any]:
    """Return the runtime's options for a request to a prompt of so many tokens."""
    length = {"max_length": prompt + request.max_tokens}
    if request.temperature == 0:
        return {**length, "do_sample": False}
    seed = secrets.randbelow(SEEDS) if request.seed is None else request.seed % SEEDS
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "random_seed": seed}
    return {**length, "do_sample": True, **sampling}
