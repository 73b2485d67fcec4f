"""A trace for each request, with the GenAI conventions of OpenTelemetry.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/ and https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from forgeline.config.schema.serve.seen import Seen
from forgeline.serving.gateway.exchange import Caller, Exchange, fresh
from forgeline.serving.gateway.telemetry.otlp import Exporter

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
INTERNAL, SERVER = 1, 2
ANONYMOUS = "anonymous"  # the caller without a key or token


@dataclass
class Span:
    """Some part of a request's time; `began` and `ended` are nanoseconds since the epoch."""

    name: str
    began: int = field(default_factory=time.time_ns)
    ended: int = 0
    kind: int = INTERNAL
    error: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: fresh(64))
    parent: str = ""


class Trace:
    """The spans of one request on its way."""

    def __init__(self) -> None:
        self.id = fresh(128)
        self.root = Span("chat", kind=SERVER)
        self.spans = [self.root]

    def join(self, traceparent: str | None, caller: Caller) -> None:
        """Become part of the caller's own trace, unless nobody knows whose it is."""
        if caller.id != ANONYMOUS and (found := TRACEPARENT.fullmatch(traceparent or "")):
            self.id, self.root.parent = found.groups()

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[Span]:
        """Time a part of the request, such as access, limits, guards or the engine."""
        span = Span(name, parent=self.root.id, attributes=attributes)
        self.spans.append(span)
        try:
            yield span
        except Exception as fault:
            span.error = type(fault).__name__
            raise
        finally:
            span.ended = time.time_ns()


class Traces:
    """Sends each finished trace to `seen.traces`; texts, which are masked, go with it if `seen.trace_texts`."""

    def __init__(self, seen: Seen) -> None:
        self._texts = seen.trace_texts
        resource = {"service.name": "forgeline"}
        self.exporter = Exporter(seen.traces, seen.trace_headers, resource) if seen.traces else None

    def ended(self, trace: Trace, exchange: Exchange, error: str | None, cost: float) -> None:
        """Send a trace off; returns at once, and drops it if too many wait."""
        if self.exporter is None:
            return
        root = trace.root
        model = exchange.request.model or exchange.served.model
        root.name, root.ended, root.error = f"chat {model}", time.time_ns(), error
        root.attributes = {
            name: value
            for name, value in (self._asked(exchange, model) | self._answered(exchange, model, cost)).items()
            if value is not None
        }
        self.exporter.send(trace.id, trace.spans)

    @property
    def dropped(self) -> int:
        """How many traces no collector took."""
        return 0 if self.exporter is None else self.exporter.dropped

    def close(self) -> None:
        """Send what waits."""
        if self.exporter is not None:
            self.exporter.close()

    def _asked(self, exchange: Exchange, model: str) -> dict[str, Any]:
        request = exchange.request
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "forgeline",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": float(request.temperature),
            "gen_ai.request.top_p": float(request.top_p),
            "gen_ai.request.seed": request.seed,
            "gen_ai.request.stop_sequences": list(request.stop) or None,
            "gen_ai.input.messages": json.dumps(list(map(_message, request.messages))) if self._texts else None,
            "forgeline.caller": exchange.caller.id,
            "forgeline.tenant": exchange.caller.tenant,
        }

    def _answered(self, exchange: Exchange, model: str, cost: float) -> dict[str, Any]:
        usage, reply = exchange.usage, {"role": "assistant", "content": exchange.reply}
        finish = {"finish_reason": exchange.finish_reason or "error"}
        found = [f"{verdict.guard}:{verdict.action}" for verdict in exchange.verdicts if verdict.action != "pass"]
        return {
            "gen_ai.response.id": f"chatcmpl-{exchange.id}",
            "gen_ai.response.model": model,
            "gen_ai.response.finish_reasons": [exchange.finish_reason] if exchange.finish_reason else None,
            "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
            "gen_ai.output.messages": json.dumps([_message(reply) | finish]) if self._texts else None,
            "forgeline.request": exchange.id,
            "forgeline.rung": exchange.rung,
            "forgeline.cost": float(cost),
            "forgeline.first_token": exchange.first_token,
            "forgeline.verdicts": found or None,
            "forgeline.version": exchange.served.version,
            "forgeline.bundle": exchange.served.bundle,
            "forgeline.run": exchange.served.run,
        }


def _message(message: dict[str, str]) -> dict[str, Any]:
    return {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]}
