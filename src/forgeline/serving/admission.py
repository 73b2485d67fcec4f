"""May an engine that computes otherwise than its bundle serve it? Its replies are scored beside the bundle's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forgeline.config.schema import Config, Evaluate
from forgeline.config.schema.serve.engine import Openvino
from forgeline.data.layout import SPLITS
from forgeline.evaluation import Report, difference, evaluate
from forgeline.evaluation.bootstrap import Difference, Estimate
from forgeline.evaluation.subjects import Subject
from forgeline.lineage import file_digest, value_digest
from forgeline.models import Reply
from forgeline.records import Record
from forgeline.registry.gates import Evidence, judge
from forgeline.serving import variant as variants
from forgeline.serving.bundle import Manifest, verify
from forgeline.serving.engines import Engine, GenerationRequest, openvino_variant
from forgeline.serving.engines.embedded import Embedded
from forgeline.serving.engines.openvino import Continuous
from forgeline.serving.subjects import subject
from forgeline.serving.variant import Admission, Held, Variant

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


@dataclass
class Judge:
    """Scores variants of one bundle beside the bundle's own replies, which are given once for all of them.

    `prompts` are the parity check's.
    """

    config: Config
    bundle: Path
    manifest: Manifest
    prompts: Sequence[Messages]

    @cached_property
    def own(self) -> Report:
        """What the bundle itself scores."""
        test = self.config.root / SPLITS["test"]
        return evaluate(
            subject(self.config, str(self.bundle.resolve())), test, _scoring(self.config), self.config.project.seed
        )

    def admit(self, folder: Path, variant: Variant, runtime: str, asked: Subject, alone: Subject) -> Admission:
        """Return what the gates of `policy.admission` say of a verified variant that `asked` lets answer.

        `alone` is it with nobody else there, for the replies to the parity prompts.

        What was measured is kept with the variant, and measured again only for another release of what runs it, other
        test prompts or other settings of the evaluation; it is judged each time.

        Raises:
            ServingError: if the variant does not answer.
        """
        config, scoring = self.config, _scoring(self.config)
        measured = _identity(config, scoring, self.prompts)
        found = variants.known(folder)
        if found is None or (found.variant, found.runtime, found.measured) != (variant.digest, runtime, measured):
            seed, test = config.project.seed, config.root / SPLITS["test"]
            theirs = evaluate(asked, test, scoring, seed)
            said = alone.replies(self.prompts, config.serve.sampling.max_tokens)
            apart = difference(theirs, self.own, scoring, seed)
            found = Admission(
                variant=variant.digest,
                runtime=runtime,
                measured=measured,
                values={name: estimate.model_dump() for name, estimate in theirs.metrics.items()},
                differences={name: each.model_dump() for name, each in apart.items()},
                replies=[reply.text for reply in said],
            )
        judged = found.model_copy(update={"verdicts": _verdicts(config, self.manifest, found)})
        variants.save(folder, judged)
        return judged


def admit(config: Config, bundle: Path, settings: Openvino, prompts: Sequence[Messages]) -> Admission:
    """Return what the gates of `policy.admission` say of a bundle's OpenVINO variant, made if it is not there.

    Raises:
        ServingError: if the bundle cannot be exported, or its variant does not answer.
    """
    signing = config.serve.signing
    manifest, runtime = verify(bundle, signing), openvino_variant.runtime()
    environment = config.root / settings.environment
    folder = openvino_variant.export(bundle, manifest, config.root, environment, signing, settings.weights)
    variant = variants.verify(folder, manifest, signing)

    def make() -> Engine:
        return Embedded(settings.name, Continuous(folder, variant, bundle))

    asked, alone = Asked(settings.name, make), Asked(settings.name, make, seed=0)
    return Judge(config, bundle, manifest, prompts).admit(folder, variant, runtime, asked, alone)


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


def _verdicts(config: Config, manifest: Manifest, found: Admission) -> list[Held]:
    evidence = Evidence(
        version=int(manifest.lineage.version),
        data_digest=manifest.lineage.data_digest,
        values={name: Estimate.model_validate(each) for name, each in found.values.items()},
        differences={"bundle": {name: Difference.model_validate(each) for name, each in found.differences.items()}},
        champion=None,
        enough=config.evaluate.min_examples,
    )
    verdicts = judge(config.policy.model_copy(update={"gates": config.policy.admission}), evidence)
    return [Held(gate=each.gate, outcome=each.outcome, reason=each.reason) for each in verdicts]


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
