"""An OpenAI-shaped address on this machine for an endpoint that only the vendor's SDK can ask.

So that the smoke test of every target is the same one, by the official client.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forgeline.errors import ServingError

Invoke = Callable[[bytes, bool], Iterator[bytes]]
"""Sends a chat request's body, which is for a stream or not, and yields the reply as it comes; raises ServingError."""


@contextmanager
def relay(model: str, invoke: Invoke) -> Iterator[str]:
    """Yield a URL below which `/v1/chat/completions` asks the endpoint, and `/v1/models` names what it should serve."""
    listed = json.dumps({"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": ""}]})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, "application/json", iter([listed.encode()]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            stream = bool(json.loads(body).get("stream"))
            pieces = invoke(body, stream)
            try:
                first = next(pieces, b"") if stream else _whole(pieces)
            except ServingError as fault:
                told = {"error": {"message": str(fault), "type": "api_error", "code": "endpoint_failed", "param": None}}
                self._answer(502, "application/json", iter([json.dumps(told).encode()]))
                return
            self._answer(200, "text/event-stream" if stream else "application/json", iter([first, *pieces]))

        def _answer(self, status: int, kind: str, pieces: Iterator[bytes]) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the client tells what went wrong."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _whole(pieces: Iterator[bytes]) -> bytes:
    """Return an answer that is passed on as JSON; raise ServingError if it is something else."""
    said = b"".join(pieces)
    try:
        json.loads(said)
    except ValueError as fault:
        raise ServingError(f"The endpoint does not answer in JSON ({fault}).") from fault
    return said
