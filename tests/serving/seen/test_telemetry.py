from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from rooms import MANIFEST, Rooms, exchange
from scene import free_port, wait_for

from forgeline.config.schema.serve.seen import Seen
from forgeline.serving.gateway.exchange import Caller
from forgeline.serving.gateway.telemetry.metrics import OTHER, Bounded, Metrics
from forgeline.serving.gateway.telemetry.telemetry import Telemetry
from forgeline.serving.gateway.telemetry.traces import Trace, Traces

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ANNA, NOBODY = Caller("anna", "shop", frozenset()), Caller("anonymous", "anonymous", frozenset())


class Collector:
    """An OTLP endpoint that keeps what it is sent, and answers as it is told."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        self.spans: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = collector.answers.pop(0) if collector.answers else 200
            if status == 200:
                collector.headers = dict(self.headers)
                collector.spans += body["resourceSpans"][0]["scopeSpans"][0]["spans"]
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        collector = Collector(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def traced(traces: Traces, error: str | None = None, caller: Caller = ANNA) -> Trace:
    trace = Trace()
    with trace.span("access"):
        trace.join(PARENT, caller)
    with pytest.raises(ValueError), trace.span("engine transformers"):
        raise ValueError
    traces.ended(trace, exchange("one", "toxicity:flag"), error, 0.25)
    return trace


def test_a_trace_follows_the_conventions_and_holds_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACES_KEY", "hunter2")
    with collecting() as collector:
        headers = {"authorization": "Bearer ${env:TRACES_KEY}"}
        traces = Traces(Seen(traces=collector.url, trace_headers=headers))
        traced(traces, "timeout")
        traces.close()
    root, access, engine = collector.spans
    assert root["name"] == f"chat {MANIFEST.lineage.model}" and collector.headers["authorization"] == "Bearer hunter2"
    assert (root["traceId"], root["parentSpanId"]) == ("a" * 32, "b" * 16)
    assert [access["name"], engine["name"]] == ["access", "engine transformers"]
    assert access["parentSpanId"] == engine["parentSpanId"] == root["spanId"]
    assert int(root["startTimeUnixNano"]) <= int(access["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
    assert engine["status"] == {"code": 2, "message": "ValueError"} and access["status"] == {}
    said = attributes(root)
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    assert {name for name in said if name.startswith("gen_ai.")} <= known
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.operation.name"]) == ("42", "chat")
    assert (said["forgeline.caller"], said["error.type"]) == ("anna", "timeout")
    assert "open" not in json.dumps(collector.spans)


def test_texts_go_along_if_asked_and_strangers_join_no_trace() -> None:
    with collecting() as collector:
        collector.answers = [503]  # and is asked again
        traces = Traces(Seen(traces=collector.url, trace_texts=True))
        trace = traced(traces, caller=NOBODY)
        wait_for(lambda: collector.spans, 10)
        traces.close()
    assert collector.spans[0]["traceId"] == trace.id != "a" * 32 and collector.spans[0]["parentSpanId"] == ""
    said = attributes(collector.spans[0])
    assert json.loads(said["gen_ai.input.messages"])[0]["parts"][0]["content"] == "When do you open?"
    assert json.loads(said["gen_ai.output.messages"])[0]["finish_reason"] == "stop"
    for header in ("", "00-0", PARENT.upper(), f"00-{'0' * 32}-{'b' * 16}-01", PARENT + "\n"):
        other = Trace()
        other.join(header, ANNA)
        assert other.root.parent == ""


def test_a_collector_that_is_away_costs_traces_and_no_time() -> None:
    traces = Traces(Seen(traces=f"http://127.0.0.1:{free_port()}/v1/traces"))
    done = exchange("one")
    began = time.perf_counter()
    for _ in range(2000):
        traces.ended(Trace(), done, None, 0)
    assert time.perf_counter() - began < 2
    traces.close()
    assert traces.dropped > 900


def test_metrics_keep_their_names_and_few_series(rooms: Rooms) -> None:
    metrics = Metrics(MANIFEST.lineage.model, lambda: 7)
    metrics.watch(rooms.store, Traces(Seen()))
    metrics.count_tokens("completion", 12, None)
    metrics.answered(exchange("one", "toxicity:flag"), "timeout", 0.25)
    text = metrics.text().decode()
    for line in (
        'forgeline_tokens_total{direction="completion",model="reply-writer"} 12.0',
        'forgeline_errors_total{code="timeout"} 1.0',
        'forgeline_verdicts_total{action="flag",guard="toxicity",side="out"} 1.0',
        'forgeline_cost_total{model="reply-writer"} 0.25',
        "forgeline_first_token_seconds_count 1.0",
        "forgeline_token_seconds_count 1.0",
        "forgeline_queue_depth 7.0",
        "forgeline_store_behind_seconds 0.0",
        "forgeline_store_spooled 0.0",
        "forgeline_traces_dropped 0.0",
    ):
        assert line in text.splitlines(), line
    few = Bounded(2)
    assert [few(name) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]


def test_a_line_of_log_has_no_text_and_waits_for_nobody(rooms: Rooms) -> None:
    stream = io.StringIO()
    telemetry = Telemetry(Seen(), MANIFEST.lineage.model, rooms.store, lambda: 0, stream)
    done = exchange("one", "toxicity:flag")
    telemetry.answered(replace(done), Trace())
    telemetry.request("one", "/v1/chat/completions", 200, 0.25, done.caller, done)
    telemetry.request("two", "other", 401, 0.001, error="invalid_api_key")
    telemetry.close()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["id"], first["ms"], first["caller"], first["rung"]) == ("one", 250, "anna", "transformers")
    assert (first["completion_tokens"], first["verdicts"]) == (12, ["toxicity:flag"])
    assert (second["status"], second["error"]) == (401, "invalid_api_key") and "open" not in stream.getvalue()
    assert telemetry.hour.shown()["errors"] == {"invalid_api_key": 1}
    reader, writer = os.pipe()  # which nobody reads
    stalled = Telemetry(Seen(), MANIFEST.lineage.model, rooms.store, lambda: 0, os.fdopen(writer, "w"))
    began = time.perf_counter()
    for _ in range(20_000):
        stalled.log.request("one", "other", 200, 0.1)
    assert time.perf_counter() - began < 5
    os.close(reader)
    stalled.close()


def test_mlflow_shows_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", database)  # what `mlflow server` hands to its workers
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", f"{tmp_path}/artifacts")
    import uvicorn
    from mlflow import MlflowClient
    from mlflow.server.fastapi_app import app

    monkeypatch.setattr("mlflow.server.handlers._tracking_store", None)
    client = MlflowClient(database)
    experiment = client.create_experiment("gateway")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        headers = {"x-mlflow-experiment-id": experiment}
        seen = Seen(traces=f"http://127.0.0.1:{port}/v1/traces", trace_headers=headers, trace_texts=True)
        traces = Traces(seen)
        traced(traces, caller=NOBODY)
        found = wait_for(lambda: client.search_traces(locations=[experiment]))
        traces.close()
    finally:
        server.should_exit = True
        thread.join()
    spans = {span.name: span for span in found[0].data.spans}
    assert set(spans) == {"chat reply-writer", "access", "engine transformers"}
    assert spans["chat reply-writer"].get_attribute("gen_ai.usage.output_tokens") == 12
    assert "When do you open?" in found[0].info.request_preview
