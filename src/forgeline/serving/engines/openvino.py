"""The openvino engine: a bundle's exported variant in this process, many requests at once.

Source of the calls: `openvino_genai.ContinuousBatchingPipeline`, release 2026.4. Prompts and replies pass as tokens, so
that they are what the transformers engine reads and says: the pipeline's own tokenizer and chat template are not used.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgeline.errors import ServingError
from forgeline.serving.engines import EngineFailed, GenerationRequest, Piece
from forgeline.serving.engines.embedded import Job
from forgeline.serving.engines.exported import Exported
from forgeline.serving.engines.text import Spoken
from forgeline.serving.variant import Variant

# Between its products, which it makes of 8 bits either way, float32 makes about 1.4 times the tokens of a core's second
# that bfloat16, its own choice, makes; threads that are not tied to cores about 1.1 times (docs/optimise.md).
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
SEEDS = 2**63


class Reply:
    """One request on its way: its prompt, what has been said so far, and the pipeline's handle once it has begun."""

    def __init__(self, request: GenerationRequest, prompt: list[int], spoken: Spoken) -> None:
        self.request = request
        self.prompt = prompt
        self.spoken = spoken
        self.handle: Any = None


class Continuous(Exported[Reply]):
    """A verified variant and the requests that it answers together.

    With others beside it a reply may differ in a near-tie, and all draw from one stream of random numbers. A request
    with a seed is therefore answered alone, once those before it have ended: so it is the same each time.
    """

    def __init__(self, folder: Path, variant: Variant, bundle: Path) -> None:
        super().__init__(folder, variant, bundle)
        self._seeded: Job | None = None
        self._requests = 0

    def load(self) -> None:
        """Compile the model for this processor."""
        genai = _openvino_genai()
        super().load()
        self._pipeline = genai.ContinuousBatchingPipeline(self._folder, genai.SchedulerConfig(), "CPU", SETTINGS)

    def room(self) -> bool:
        """Whether another request can be added now."""
        return self._seeded is None and super().room()

    def add(self, job: Job) -> None:
        """Take a request on."""
        reply = Reply(job.request, *self.read(job.request))
        if job.request.seed is None:
            self._begin(reply)
        else:
            self._seeded = job
        self._replies[job] = reply

    def drop(self, job: Job) -> None:
        """Forget a request."""
        reply = self._replies.pop(job, None)
        if reply is not None and reply.handle is not None:
            reply.handle.cancel()
        if self._seeded is job:
            self._seeded = None

    def step(self) -> Iterator[tuple[Job, Piece | Exception]]:
        """Move every request on: by a token, or by a part of its prompt."""
        alone = [*self._replies] == [self._seeded] and not self._pipeline.has_non_finished_requests()
        if self._seeded is not None and alone:
            self._begin(self._replies[self._seeded])
        time.sleep(0)  # a step keeps the interpreter to itself: whoever waits for it, such as a new request, goes first
        self._pipeline.step()
        for job, reply in list(self._replies.items()):
            for piece in _brought(reply):
                ended = isinstance(piece, Exception) or piece.finish_reason
                if ended:
                    self.drop(job)
                yield job, piece
                if ended:
                    break

    def _begin(self, reply: Reply) -> None:
        import numpy as np
        from openvino import Tensor

        self._requests += 1
        settings = _settings(reply.request, self._variant.stop_ids)
        reply.handle = self._pipeline.add_request(self._requests, Tensor(np.array([reply.prompt])), settings)


def _settings(request: GenerationRequest, stop_ids: list[int]) -> Any:
    genai = _openvino_genai()
    stops = {"stop_token_ids": set(stop_ids), "eos_token_id": stop_ids[0]}
    settings = genai.GenerationConfig(max_new_tokens=request.max_tokens, **stops)
    if request.temperature > 0:
        settings.do_sample = True
        settings.temperature = request.temperature
        settings.top_p = request.top_p
        # Its default is the same seed each time.
        settings.rng_seed = secrets.randbelow(SEEDS) if request.seed is None else request.seed % SEEDS
    return settings


def _brought(reply: Reply) -> Iterator[Piece | Exception]:
    """Yield what the last step brought for a reply: mostly a token."""
    if reply.handle is None:  # it waits to be alone
        return
    while reply.handle.can_read():
        for output in reply.handle.read().values():
            yield from map(reply.spoken.add, output.generated_ids)
    if reply.handle.get_status().name == "IGNORED":
        yield EngineFailed("OpenVINO has no memory for this request's keys and values.")


def _openvino_genai() -> Any:
    # OpenVINO tells its makers of every import, without asking, if the package that does it can be found.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino_genai
    except ImportError:
        raise ServingError("OpenVINO is not installed: pip install 'forgeline[openvino]'.") from None
    return openvino_genai
