"""May an engine that computes otherwise than its bundle serve it? Its replies are scored beside the bundle's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from forgeline.config.schema import Config, Evaluate
from forgeline.config.schema.serve.engine import Openvino
from forgeline.data.layout import SPLITS
from forgeline.evaluation import difference, evaluate
from forgeline.evaluation.bootstrap import Difference, Estimate
from forgeline.lineage import file_digest, value_digest
from forgeline.models import Reply
from forgeline.records import Record
from forgeline.registry.gates import Evidence, judge
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.engines import Engine, GenerationRequest
from forgeline.serving.engines import openvino_variant as variants
from forgeline.serving.engines.embedded import Embedded
from forgeline.serving.engines.openvino import Continuous
from forgeline.serving.subjects import subject

Messages = list[dict[str, str]]
LOOK_EVERY = 0.1  # seconds, while the engine loads


@dataclass(frozen=True)
class Asked:
    """An engine as something that can be evaluated; `make` returns one that has not been started."""

    name: str
    make: Callable[[], Engine]
    seed: int | None = None  # with one, an engine answers one request after the other, and always the same
    vocabulary: str = ""

    def replies(
        self, prompts: Sequence[Messages], max_new_tokens: int, advance: Callable[[int], None] = lambda replies: None
    ) -> list[Reply]:
        """Return the greedy reply to each prompt, in order: all are asked at once, as callers may do.

        Raises:
            ServingError: if the engine cannot be started, or does not answer.
        """
        requests = [GenerationRequest(prompt, max_new_tokens, 0.0, seed=self.seed) for prompt in prompts]
        return asyncio.run(_asked(self.make(), requests, advance))

    def losses(self, records: Sequence[Record]) -> None:
        """Return None: an engine does not tell how likely a given reply is."""

    def text_losses(self, texts: Sequence[str], max_tokens: int | None = None) -> None:
        """Return None, as `losses` does."""


def admit(config: Config, bundle: Path, settings: Openvino, prompts: Sequence[Messages]) -> variants.Admission:
    """Return what the gates of `policy.admission` say of a bundle's variant, which is made if it is not there.

    `prompts` are the parity check's. What was measured is kept with the variant, and measured again only for another
    release of OpenVINO, other test prompts or other settings of the evaluation; it is judged each time.

    Raises:
        ServingError: if the bundle cannot be exported, or its variant does not answer.
    """
    signing = config.serve.signing
    manifest, runtime = verify(bundle, signing), variants.runtime()
    folder = variants.export(bundle, manifest, config.root, config.root / settings.environment, signing)
    variant = variants.verify(folder, manifest, signing)
    scoring = _scoring(config)
    measured = _identity(config, scoring, prompts)
    found = variants.known(folder)
    if found is None or (found.variant, found.runtime, found.measured) != (variant.digest, runtime, measured):

        def make() -> Engine:
            return Embedded(settings.name, Continuous(folder, variant, bundle))

        seed, test = config.project.seed, config.root / SPLITS["test"]
        ours = evaluate(Asked(settings.name, make), test, scoring, seed)
        own = evaluate(subject(config, str(bundle)), test, scoring, seed)
        alone = Asked(settings.name, make, seed=0).replies(prompts, config.serve.sampling.max_tokens)
        found = variants.Admission(
            variant=variant.digest,
            runtime=runtime,
            measured=measured,
            values={name: estimate.model_dump() for name, estimate in ours.metrics.items()},
            differences={name: each.model_dump() for name, each in difference(ours, own, scoring, seed).items()},
            replies=[reply.text for reply in alone],
        )
    judged = found.model_copy(update={"verdicts": _verdicts(config, manifest, found)})
    variants.save(folder, judged)
    return judged


def _scoring(config: Config) -> Evaluate:
    """Return the settings of the evaluation, with no more metrics than the gates of admission ask for."""
    asked = {str(gate.evidence): None for gate in config.policy.admission.values()}
    metrics = {name: config.evaluate.metrics[name] for name in asked if name in config.evaluate.metrics}
    return config.evaluate.model_copy(update={"metrics": metrics})


def _identity(config: Config, scoring: Evaluate, prompts: Sequence[Messages]) -> str:
    """Return the digest of all that what is measured depends on, but for the variant and OpenVINO."""
    test = file_digest(config.root / SPLITS["test"])
    settings = [scoring.digest(), config.project.seed, config.serve.sampling.max_tokens]
    return value_digest([test, *settings, [list(prompt) for prompt in prompts]])


def _verdicts(config: Config, manifest: Manifest, found: variants.Admission) -> list[variants.Held]:
    evidence = Evidence(
        version=int(manifest.lineage.version),
        data_digest=manifest.lineage.data_digest,
        values={name: Estimate.model_validate(each) for name, each in found.values.items()},
        differences={"bundle": {name: Difference.model_validate(each) for name, each in found.differences.items()}},
        champion=None,
        enough=config.evaluate.min_examples,
    )
    verdicts = judge(config.policy.model_copy(update={"gates": config.policy.admission}), evidence)
    return [variants.Held(gate=each.gate, outcome=each.outcome, reason=each.reason) for each in verdicts]


async def _asked(engine: Engine, requests: Sequence[GenerationRequest], advance: Callable[[int], None]) -> list[Reply]:
    """Return an engine's replies to all requests at once; it is started before and closed after."""
    await engine.start()
    try:
        while not engine.ready:
            if engine.failure is not None:
                raise engine.failure
            await asyncio.sleep(LOOK_EVERY)
        return await asyncio.gather(*(_reply(engine, request, advance) for request in requests))
    finally:
        await engine.close()


async def _reply(engine: Engine, request: GenerationRequest, advance: Callable[[int], None]) -> Reply:
    began = time.perf_counter()
    async with aclosing(engine.generate(request)) as reply:
        pieces = [piece async for piece in reply]
    waited = time.perf_counter() - began
    advance(1)
    text, last = "".join(piece.text for piece in pieces), pieces[-1]
    return Reply(text, last.usage.completion_tokens, last.finish_reason == "stop", waited, waited)
