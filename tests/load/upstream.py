"""An OpenAI-compatible server in a process of its own that answers at once, or fails as it is told.

It answers with words of the question, so that every reply can be checked.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any, Literal, cast

Mode = Literal["well", "hang", "silent", "reset", "error", "busy", "cut", "flaky", "toxic"]
MODEL = "stub"
CHUNKS = 200  # at most, of a reply; a short one has a word in each
WORDS = 20
FLAKY = 3  # of so many requests one fails
TOXIC = "You are a fucking idiot, you stupid bitch."
HALF = 2  # chunks before a reply is cut, or falls silent


def answer(question: str) -> str:
    """Return what the server says: some words of the question; all, a hundred times, if it begins with `Long`.

    A short one begins with a sentence, which the guards let out of a stream before the rest has come.
    """
    if question.startswith("Long"):
        return " ".join([question] * 100)
    return f"Yes. Answer to: {' '.join(question.split(' ')[:WORDS])}"


class Served(asyncio.Protocol):
    """One connection; the mode is the server's."""

    mode: Mode = "well"
    delay = 0.0  # seconds before each chunk
    asked = 0
    left = 0  # connections that ended before the reply did

    def __init__(self) -> None:
        self._data = b""
        self._reply: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, fault: Exception | None) -> None:
        if self._reply and not self._reply.done():
            Served.left += 1
            self._reply.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        body, self._data = rest[:length], rest[length:]
        path = head.split(b" ", 2)[1].decode()
        if path.endswith("/chat/completions"):
            self._complete(json.loads(body))
        elif path == "/tell":
            for key, value in json.loads(body).items():
                setattr(Served, key, value)
            self._send({})
        elif path == "/counts":
            self._send({"asked": Served.asked, "left": Served.left})
        else:
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def _complete(self, asked: dict[str, Any]) -> None:
        Served.asked += 1
        fails = Served.mode == "error" or (Served.mode == "flaky" and Served.asked % FLAKY == 0)
        if Served.mode == "reset":
            self._transport.abort()
        elif fails or Served.mode == "busy":
            error = {"error": {"message": "as I was told", "type": "server_error"}}
            self._send(error, "500 Error" if fails else "503 Busy")
        elif Served.mode == "hang":
            self._reply = asyncio.ensure_future(asyncio.Event().wait())  # type: ignore[arg-type]
        else:
            question = asked["messages"][-1]["content"]
            words = (TOXIC if Served.mode == "toxic" else answer(question)).split(" ")
            usage = {"prompt_tokens": len(question.split()), "completion_tokens": len(words)}
            usage["total_tokens"] = sum(usage.values())
            if asked.get("stream"):
                self._stream(words, usage)
            else:
                message = {"role": "assistant", "content": " ".join(words)}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self._send(_completion("chat.completion", [choice], usage=usage))

    def _stream(self, words: list[str], usage: dict[str, int]) -> None:
        size = 1 + len(words) // CHUNKS
        texts = [" ".join(words[at : at + size]) for at in range(0, len(words), size)]
        texts[1:] = [f" {text}" for text in texts[1:]]
        deltas = [{"index": 0, "delta": {"content": text}, "finish_reason": None} for text in texts]
        chunks = [_completion("chat.completion.chunk", [delta]) for delta in deltas]
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        chunks += [_completion("chat.completion.chunk", [end]), _completion("chat.completion.chunk", [], usage=usage)]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
        kind = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self._transport.write(b"HTTP/1.1 200 OK\r\n" + kind)
        if Served.mode in ("well", "flaky", "toxic") and not Served.delay:
            self._write("".join(events))
            self._transport.write(b"0\r\n\r\n")
        else:
            self._reply = asyncio.ensure_future(self._slowly(events))

    async def _slowly(self, events: list[str]) -> None:
        for sent, event in enumerate(events):
            if sent == HALF and Served.mode == "cut":
                self._transport.abort()
                return
            if sent == HALF and Served.mode == "silent":
                await asyncio.Event().wait()
            await asyncio.sleep(Served.delay)
            self._write(event)
        self._transport.write(b"0\r\n\r\n")

    def _write(self, text: str) -> None:
        self._transport.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def _send(self, value: dict[str, Any], status: str = "200 OK") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _completion(kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-stub", "object": kind, "created": 1, "model": MODEL, "choices": choices, **more}


class Upstream:
    """The server's process, on a port that stays when it is started again."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.start()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start the process, and return once it answers."""
        self._process = subprocess.Popen([sys.executable, __file__, str(self.port)])
        deadline = time.monotonic() + 20
        while True:
            try:
                self.counts()
                return
            except OSError:
                assert time.monotonic() < deadline, "the stub did not start"
                time.sleep(0.02)

    def tell(self, mode: Mode = "well", delay: float = 0.0) -> None:
        """Say how it answers from now on."""
        self._call("/tell", {"mode": mode, "delay": delay})

    def counts(self) -> dict[str, int]:
        """Return how many requests came, and how many clients left early."""
        return self._call("/counts", {})

    def kill(self) -> None:
        """End the process as a crash does."""
        self._process.kill()
        self._process.wait()

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as response:
            return json.load(response)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Served, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
