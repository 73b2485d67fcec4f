"""An engine behind a URL, against a server that does exactly what a test tells it, byte by byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from scene import HELLO, free_port

from forgeline.config.schema.serve.engine import Timeouts
from forgeline.serving.engines import EngineFailed, EngineUnavailable, GenerationRequest, Piece, RequestRefused, Usage
from forgeline.serving.engines.remote import Endpoint, Remote

REQUEST = GenerationRequest(messages=HELLO, max_tokens=8, temperature=0.0)
OPENED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSED = b"0\r\n\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def event(delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **more}]}
    return line(json.dumps(chunk))


def line(data: str) -> bytes:
    sent = f"data: {data}\n\n".encode()
    return f"{len(sent):x}\r\n".encode() + sent + b"\r\n"


ROLE = event({"role": "assistant", "content": ""})
USAGE = line('{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}')
DONE = line("[DONE]") + CLOSED
REPLY = OPENED + ROLE + event({"content": "Good "}) + event({"content": "day"}) + event({}, "stop") + USAGE + DONE


def says(*parts: bytes, then: str = "go on") -> Script:
    """Send some bytes; then keep the connection, or `close` it, or be `silent` until the other side closes it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if then == "close":
            writer.close()
        if then == "silent":
            await reader.read()

    return script


def refuses(status: int, answer: str, headers: str = "") -> Script:
    return says(f"HTTP/1.1 {status} No\r\nContent-Length: {len(answer)}\r\n{headers}\r\n{answer}".encode())


class Server:
    """What it has heard: the places asked for, the last request, how many connections were made and given up."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.health = {"/v1/models": b'{"data": [{"id": "theirs"}]}'}
        self.heard: dict[str, Any] = {}
        self.key = ""
        self.connections = 0
        self.given_up = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                place = head.split()[1]
                fields = dict(field.lower().split(": ", 1) for field in head.splitlines()[1:] if field)
                if place == "/v1/chat/completions":
                    self.key = fields.get("authorization", "")
                    self.heard = json.loads(await reader.readexactly(int(fields["content-length"])))
                    await self.script(reader, writer)
                else:
                    status, answer = ("200 OK", self.health[place]) if place in self.health else ("404 No", b"")
                    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.given_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def remote(script: Script, **endpoint: Any) -> AsyncIterator[tuple[Remote, Server]]:
    server = Server(script)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    engine = Remote("there", Endpoint(url=f"http://127.0.0.1:{port}/v1", **endpoint))
    await engine.start()
    try:
        await until(lambda: engine.ready)
        yield engine, server
    finally:
        await engine.close()
        listener.close()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def asked(engine: Remote, request: GenerationRequest = REQUEST) -> list[Piece]:
    async with aclosing(engine.generate(request)) as reply:
        return [piece async for piece in reply]


def ask(script: Script, request: GenerationRequest = REQUEST, **endpoint: Any) -> tuple[list[Piece], Server]:
    async def main() -> tuple[list[Piece], Server]:
        async with remote(script, **endpoint) as (engine, server):
            return await asked(engine, request), server

    return asyncio.run(main())


def test_what_comes_at_once_is_one_piece_with_the_servers_usage() -> None:
    pieces, server = ask(says(REPLY))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("Good day", "stop")]
    assert pieces[-1].usage == Usage(7, 3)
    assert server.heard["model"] == "theirs"  # the first that the server lists
    assert server.heard["stream_options"] == {"include_usage": True}
    assert not {"seed", "stop", "logprobs"} & server.heard.keys()
    assert server.key == ""


def test_a_request_is_passed_on_whole() -> None:
    request = GenerationRequest(HELLO, 5, 0.7, top_p=0.9, stop=("END",), seed=3, model="small", logprobs=1)
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Ho", "logprob": -1.5}]}]}
    reply = OPENED + event({"content": "Hi"}, logprobs=logprobs) + event({}, "length") + DONE
    endpoint = {"model": "big", "models": {"small": "mini-1"}, "key": "sesame", "gives_logprobs": True}
    pieces, server = ask(says(reply), request, **endpoint)
    assert server.key == "bearer sesame"
    assert server.heard == {
        "model": "mini-1",
        "messages": HELLO,
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (pieces[0].logprobs[0].logprob, pieces[0].logprobs[0].top) == (-0.5, (("Ho", -1.5),))
    assert pieces[-1].finish_reason == "length"


def test_pieces_are_counted_where_the_server_tells_no_usage() -> None:
    pieces, _ = ask(says(REPLY.replace(USAGE, b"")))
    assert pieces[-1].usage == Usage(0, 2)


def test_events_may_come_in_any_portions() -> None:
    pieces, _ = ask(says(*(REPLY[start : start + 7] for start in range(0, len(REPLY), 7))))
    assert "".join(piece.text for piece in pieces) == "Good day"


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        (refuses(400, '{"error": {"message": "too long", "code": null}}'), RequestRefused, "^too long$"),
        (refuses(413, '{"detail": "too large"}'), RequestRefused, "^too large$"),
        (refuses(422, '{"message": "no such role"}'), RequestRefused, "^no such role$"),
        (refuses(429, "slow down", "Retry-After: 7\r\n"), EngineUnavailable, "429.*slow down"),
        (refuses(502, ""), EngineUnavailable, "502"),
        (refuses(503, "<html>", "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n"), EngineUnavailable, "503"),
        (refuses(504, ""), EngineUnavailable, "504"),
        (refuses(401, '{"error": "who?"}'), EngineFailed, "401: who?"),
        (refuses(404, '{"error": {"message": "no such model"}}'), EngineFailed, "404: no such model"),
        (refuses(307, "", "Location: http://127.0.0.1:1/\r\n"), EngineFailed, "307"),  # the key goes nowhere else
        (refuses(500, "x" * 100_000), EngineFailed, "500: x{500}$"),
        (says(then="close"), EngineUnavailable, "cannot be reached"),
        (says(OPENED, then="close"), EngineUnavailable, "closed the connection"),
        (says(OPENED, ROLE, then="silent"), EngineUnavailable, "is silent"),
        (says(then="silent"), EngineUnavailable, "is silent"),
        (says(OPENED, event({"content": "Go"}), then="close"), EngineFailed, "closed.*in the middle"),
        (says(OPENED, event({"content": "Go"}), then="silent"), EngineFailed, "silent in the middle"),
        (says(OPENED, event({"content": "Go"}), CLOSED), EngineFailed, "broke off in the middle"),
        (says(OPENED, line('{"error": {"message": "out of memory"}}')), EngineFailed, "out of memory"),
        (says(OPENED, event({"content": "Go"}), event({}, "abort")), EngineFailed, "abort"),
        (says(OPENED, line("{not json")), EngineFailed, "not of the chat API"),
        (says(OPENED, line('{"choices": [7]}')), EngineFailed, "not of the chat API"),
        (says(OPENED, line("x" * 1_100_000)[:1_050_000], then="silent"), EngineFailed, "more than 1000000 bytes"),
    ],
)
def test_what_goes_wrong_is_told_apart(script: Script, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as raised:
        ask(script, timeouts=Timeouts(connect=1, first=0.3, between=0.2))
    if isinstance(raised.value, EngineUnavailable):
        assert raised.value.retry_after == (7 if "429" in told else None)


def test_closing_a_reply_closes_its_connection() -> None:
    async def main() -> None:
        async with remote(says(OPENED, event({"content": "Go"}), then="silent")) as (engine, server):
            async with aclosing(engine.generate(REQUEST)) as reply:
                assert (await anext(reply)).text == "Go"
            async with asyncio.timeout(5):
                await server.given_up.wait()

    asyncio.run(main())


def test_a_request_that_waits_for_its_first_token_counts_as_depth() -> None:
    async def main() -> None:
        async with remote(says(OPENED, then="silent"), timeouts=Timeouts(first=20)) as (engine, _):
            waiting = asyncio.create_task(asked(engine))
            await until(lambda: engine.depth == 1)
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert engine.depth == 0

    asyncio.run(main())


def test_an_engine_that_is_not_there_refuses_at_once_and_is_found_when_it_comes() -> None:
    async def main() -> None:
        port = free_port()
        engine = Remote("there", Endpoint(url=f"http://127.0.0.1:{port}/v1"))
        await engine.start()
        began = time.monotonic()
        with pytest.raises(EngineUnavailable, match="is not ready"):
            await asked(engine)
        assert time.monotonic() - began < 0.1
        server = Server(says(REPLY))
        listener = await asyncio.start_server(server.talk, "127.0.0.1", port)
        await until(lambda: engine.ready)
        assert await asked(engine)
        server.health = {"/readyz": b"", "/health": b""}  # a server may have either
        server.script = says(then="close")
        with pytest.raises(EngineUnavailable):
            await asked(engine)
        assert engine.ready or await until(lambda: engine.ready) is None
        listener.close()
        await engine.close()

    asyncio.run(main())


def test_connections_are_used_again_and_400_requests_a_second_pass() -> None:
    """A floor that a busy machine holds; alone on a core, 16 clients get about 3,000 a second."""

    async def main() -> float:
        async with remote(says(REPLY)) as (engine, server):
            left = iter(range(800))

            async def client() -> None:
                for _ in left:
                    await asked(engine)

            began = time.monotonic()
            await asyncio.gather(*(client() for _ in range(16)))
            assert server.connections <= 17
            return 800 / (time.monotonic() - began)

    assert max(asyncio.run(main()) for _ in range(3)) > 400
