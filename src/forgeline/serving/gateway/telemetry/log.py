"""One line of JSON for each request: who, what, how long and how it ended; never a text, never a key."""

from __future__ import annotations

import queue
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

import orjson

from forgeline.serving.gateway.exchange import Caller, Exchange

LINES = 10_000  # that may wait for whoever reads them; more are dropped
GATHER_SECONDS = 0.02  # lines of so long are written at once: waking this thread for each slows the requests
CLOSE_SECONDS = 2.0


class RequestLog:
    """Writes lines from a thread of its own: a reader that stalls costs lines, never a request."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(LINES)
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def request(
        self,
        id_: str,
        route: str,
        status: int,
        seconds: float,
        caller: Caller | None = None,
        exchange: Exchange | None = None,
        error: str | None = None,
    ) -> None:
        """Write the line of a request that is over."""
        line = {"at": datetime.now(UTC), "id": id_, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
        if caller is not None:
            line |= {"caller": caller.id, "tenant": caller.tenant}
        if error is not None:
            line["error"] = error
        if exchange is not None:
            usage = exchange.usage
            line |= {
                "model": exchange.request.model,
                "stream": exchange.stream,
                "rung": exchange.rung,
                "prompt_tokens": usage.prompt_tokens if usage else None,
                "completion_tokens": usage.completion_tokens if usage else None,
                "verdicts": [f"{found.guard}:{found.action}" for found in exchange.verdicts if found.action != "pass"],
            }
        with suppress(queue.Full):
            self._lines.put_nowait(line)

    def close(self) -> None:
        """Write what waits, as far as it is read in time."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        lines: list[dict[str, Any] | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            time.sleep(GATHER_SECONDS)
            with suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            with suppress(OSError):  # nobody reads, or the disk is full
                told = (orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines if line is not None)
                self._stream.write(b"".join(told).decode())
                self._stream.flush()
