"""What the gateway counts, in Prometheus' text format, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from forgeline.serving.bundle import Manifest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The gateway's counters; `depth` tells how many requests wait."""

    def __init__(self, manifest: Manifest, depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("forgeline_requests", "Answered requests.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "forgeline_request_seconds", "Request to last byte.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "forgeline_first_token_seconds", "Request to first token.", buckets=SECONDS, registry=self.registry
        )
        self.tokens = Counter("forgeline_tokens", "Tokens read and written.", ["direction"], registry=self.registry)
        Gauge("forgeline_queue_depth", "Requests that wait for the engine.", registry=self.registry).set_function(depth)
        Info("forgeline_deployment", "What is served.", registry=self.registry).info(
            {**manifest.lineage.model_dump(), "bundle": manifest.digest}
        )

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)
