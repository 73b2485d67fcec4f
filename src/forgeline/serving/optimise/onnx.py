"""A bundle in ONNX, by the builder and the runtime of onnxruntime-genai 0.18: to be measured, and taken elsewhere."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgeline.config.schema.serve import Signing
from forgeline.errors import ServingError
from forgeline.models import LanguageModel
from forgeline.serving import variant as variants
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import GenerationRequest, Piece
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.environment import packaged
from forgeline.serving.engines.exported import Exported
from forgeline.serving.engines.text import Spoken
from forgeline.serving.variant import Form

LAST_WORDS = 500  # characters
SEEDS = 2**31  # what the runtime takes


def runtime() -> str:
    """Return the package that makes and runs it, and its release.

    Raises:
        ServingError: if it is not installed.
    """
    return packaged("onnxruntime-genai", "onnx")


def export(bundle: Path, manifest: Manifest, root: Path, signing: Signing, weights: str) -> Path:
    """Return the folder of a verified bundle's variant, which is made if it is not there (`variant.make`).

    Its weights are `fp32`, or `int8` or `int4` in blocks of 32 with a scale each.

    Raises:
        ServingError: if what makes it is not installed, or does not know models of this architecture.
    """
    wanted = Form("onnx", weights, runtime())
    if manifest.base is not None and manifest.base.trust_remote_code:
        raise ServingError("The builder for ONNX runs no code of a model's own.")

    def write(language_model: LanguageModel, out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            merged, cache = Path(scratch) / "merged", Path(scratch) / "cache"
            language_model.model.save_pretrained(merged)
            language_model.tokenizer.save_pretrained(merged)
            _run(["-i", str(merged), "-o", str(out), "-c", str(cache), "-p", weights, "-e", "cpu"])

    return variants.make(wanted, bundle, manifest, root, write, signing)


def _run(arguments: list[str]) -> None:
    """Run the builder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *arguments]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    if done.returncode:
        raise ServingError(f"The model cannot be written as ONNX: {done.stderr.strip()[-LAST_WORDS:]}")


@dataclass(frozen=True)
class Reply:
    """One request on its way: what has been said so far, and the runtime's generator of the rest."""

    spoken: Spoken
    generator: Any


class Turns(Exported[Reply]):
    """A verified variant and the requests that it answers, each by itself: a token each in turn.

    The library's own batching on a processor keeps all rows of a batch until its last has ended.
    """

    def load(self) -> None:
        """Read the model."""
        import onnxruntime_genai

        super().load()
        self._model = onnxruntime_genai.Model(str(self._folder))

    def add(self, job: Job) -> None:
        """Take a request on: its whole prompt is read at once."""
        import onnxruntime_genai

        prompt, spoken = self.read(job.request)
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        parameters.set_search_options(**_search(job.request, len(prompt)))
        generator = onnxruntime_genai.Generator(self._model, parameters)
        generator.append_tokens(prompt)
        self._replies[job] = Reply(spoken, generator)

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
