"""What serves one bundle, whole: engines, ladder, cache, guards. While a new version is tried there are two of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics_core import InfoMetricFamily
from prometheus_client.registry import Collector

from forgeline.config.schema import Serve
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine, GenerationRequest
from forgeline.serving.gateway.cache import Cache
from forgeline.serving.gateway.exchange import Caller, Exchange, Served
from forgeline.serving.gateway.guards import Guards
from forgeline.serving.gateway.ladder import Ladder
from forgeline.serving.gateway.protocol import ChatRequest
from forgeline.serving.gateway.rollout.evidence import TIMES, Outcome
from forgeline.serving.gateway.rollout.outcomes import outcome_of
from forgeline.serving.gateway.web import Page

if TYPE_CHECKING:
    from forgeline.serving.gateway.rollout.trial import Trial

RECENT = 1000  # latencies of what is live that are remembered


@dataclass(eq=False)
class Arm:
    """One bundle and all that answers with it; of the `engines` its own is the first, and the `shared` ones outlive it.

    `kind` is what `serve.engine.name` calls its own one. It counts in a `registry` of its own, which goes with it.
    """

    manifest: Manifest
    kind: str
    engines: Mapping[str, Engine]
    shared: Mapping[str, Engine]
    guards: Guards
    cache: Cache
    ladder: Ladder
    page: Page
    registry: CollectorRegistry
    served: Served = field(init=False)
    engine: Engine = field(init=False)
    in_flight: int = 0

    def __post_init__(self) -> None:
        self.served = Served.of(self.manifest)
        self.engine = next(iter(self.engines.values()))

    @classmethod
    def made(
        cls,
        manifest: Manifest,
        serve: Serve,
        engines: Mapping[str, Engine],
        page: Page,
        root: Path,
        open_ticket: Callable[[Exchange], Awaitable[str]],
        shared: Mapping[str, Engine],
    ) -> Arm:
        """Return the arm of a bundle with these engines, of which those by the names of `shared` give way to them.

        Raises:
            ForgelineError: for a guard that cannot be used.
        """
        engines = {name: shared.get(name, engine) for name, engine in engines.items()}
        registry = CollectorRegistry()
        cache = Cache(serve.cache, manifest.digest, next(iter(engines)), registry)
        ladder = Ladder(engines, serve.ladder, serve.limits.request_timeout, cache, open_ticket, registry)
        kind = serve.engine.name
        return cls(manifest, kind, engines, shared, Guards(manifest.guards, root), cache, ladder, page, registry)

    @property
    def models(self) -> tuple[str, ...]:
        """The names that a request may ask for."""
        return (self.served.model, *self.engine.models)

    def suits(self, body: ChatRequest) -> bool:
        """Whether it has what a request asks for."""
        return body.model in self.models and (self.engine.gives_logprobs or not body.logprobs)

    def asked(self, body: ChatRequest) -> GenerationRequest:
        """Return what its engine is asked.

        Raises:
            ApiError: if there is no such model, or it gives no logprobs.
        """
        return body.to_generation(self.engine, self.served.model, self.manifest.sampling)

    async def start(self) -> None:
        """Begin to start the engines that are its own."""
        for engine in self._own():
            await engine.start()

    async def close(self) -> None:
        """Put down the engines that are its own."""
        for engine in self._own():
            await engine.close()

    def _own(self) -> Iterator[Engine]:
        return (engine for name, engine in self.engines.items() if name not in self.shared)


class Arms(Collector):
    """The arm that is live, those beside it, and the trial of one of them, if there is one.

    As a collector it tells what every arm counts, each with the version and the number of its arm as labels.
    """

    def __init__(self, live: Arm) -> None:
        self.live = live
        self.trial: Trial | None = None
        self.latencies = {name: deque[float](maxlen=RECENT) for name in TIMES}
        self._numbers: dict[Arm, str] = {}
        self._count = count(1)
        self.add(live)

    def add(self, arm: Arm) -> None:
        """Have an arm counted."""
        self._numbers[arm] = str(next(self._count))

    def remove(self, arm: Arm) -> None:
        """Let go of an arm that answers no more."""
        with suppress(KeyError):
            del self._numbers[arm]

    def chosen(self, caller: Caller, body: ChatRequest) -> Arm:
        """Return the arm that answers a caller; the same one as long as nothing changes."""
        trial = self.trial
        return trial.arm if trial and trial.takes(caller, body) else self.live

    def over(self, exchange: Exchange, error: str | None) -> None:
        """Take note of what became of an exchange."""
        found = outcome_of(exchange, error)
        if self.trial is not None:
            self.trial.over(exchange, found)
        if found is not None and exchange.arm is self.live and not exchange.failed:
            self._remember(found)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all arms, and which bundles they are."""
        told = InfoMetricFamily("forgeline_deployment", "What is served, and what is on trial or warm beside it.")
        families: dict[str, Metric] = {}
        for arm, number in self._numbers.items():
            labels = {"version": arm.served.version, "arm": number}
            role = "live" if arm is self.live else "beside"
            told.add_metric(
                [], {**arm.manifest.lineage.model_dump(), "bundle": arm.served.bundle, "arm": number, "role": role}
            )
            for family in arm.registry.collect():
                merged = Metric(family.name, family.documentation, family.type)
                samples = (sample._replace(labels=sample.labels | labels) for sample in family.samples)
                families.setdefault(family.name, merged).samples.extend(samples)
        return iter([told, *families.values(), *(self.trial.collect() if self.trial else ())])

    def _remember(self, outcome: Outcome) -> None:
        for name, seen in self.latencies.items():
            if (seconds := getattr(outcome, name)) is not None and not outcome.left:
                seen.append(seconds)
