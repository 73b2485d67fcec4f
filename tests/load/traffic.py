"""Traffic that never stops, with marks in time around what is done to the gateway; every reply is checked."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import aiohttp

from tests.load.upstream import answer

TIMEOUT = 30.0  # seconds; a request that takes longer hangs
RETRY_PAUSE = 0.5  # seconds before a request is sent again
OTHER_RUNGS = {"stale", "template", "queue"}  # whose text is not the engine's


@dataclass(frozen=True)
class Outcome:
    """One request and how it ended; `acknowledged` is its id where the client was told that all is well."""

    began: float
    ended: float
    stream: bool
    end: Literal["well", "refused", "error event", "cut", "broken", "sent again", "wrong"]
    detail: str = ""
    rung: str = ""
    acknowledged: str | None = None


@dataclass
class Traffic:
    """Clients that ask one question after the other; half of them for streams.

    Each request has a connection of its own, as a balancer in front of several gateways would spread them; but so many
    `kept` clients have one that they keep. A request whose connection breaks before any answer is sent again up to
    `retries` times, which OpenAI's client does twice.
    """

    url: str
    model: str
    key: str | None = None
    clients: int = 6
    kept: int = 0
    retries: int = 0
    streams: bool = True
    pause: float = 0.01  # seconds between a client's requests
    outcomes: list[Outcome] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """Begin a window; it lasts until the next mark."""
        self.marks.append((time.monotonic(), name))

    def window(self, name: str) -> list[Outcome]:
        """Return the requests that were on their way in a window, if only in part."""
        times = [at for at, _ in self.marks] + [float("inf")]
        at = [marked for _, marked in self.marks].index(name)
        return [one for one in self.outcomes if one.ended >= times[at] and one.began < times[at + 1]]

    @property
    def acknowledged(self) -> set[str]:
        """The ids of the requests whose client was told that all is well."""
        return {one.acknowledged for one in self.outcomes if one.acknowledged}

    def table(self) -> str:
        """Return a line a window: how many requests, and how they ended."""
        lines = []
        for _, name in self.marks:
            ends = Counter(f"{'stream' if one.stream else 'whole'} {one.end}" for one in self.window(name))
            rungs = Counter(one.rung for one in self.window(name) if one.end == "well")
            lines.append(f"  {name:<28} {dict(ends)} {dict(rungs)}")
        return "\n".join(lines)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Keep the traffic up for the time of the block; it begins with the window `before`."""
        self.mark("before")
        over = asyncio.Event()
        connectors = [aiohttp.TCPConnector(limit=0, force_close=True)]
        connectors += [aiohttp.TCPConnector(limit=1) for _ in range(self.kept)]
        async with AsyncExitStack() as opened:
            sessions = [await opened.enter_async_context(aiohttp.ClientSession(connector=each)) for each in connectors]
            sessions = [sessions[0]] * self.clients + sessions[1:]
            clients = [asyncio.ensure_future(self._client(each, number, over)) for number, each in enumerate(sessions)]
            try:
                yield
            finally:
                over.set()
                await asyncio.gather(*clients)

    async def _client(self, session: aiohttp.ClientSession, number: int, over: asyncio.Event) -> None:
        for count in itertools.count():
            if over.is_set():
                return
            stream = self.streams and (number + count) % 2 == 0
            outcome = await ask(session, self.url, self.model, stream, self.key)
            for _ in range(self.retries):
                if outcome.end != "broken":
                    break
                self.outcomes.append(replace(outcome, end="sent again"))
                await asyncio.sleep(RETRY_PAUSE)
                outcome = await ask(session, self.url, self.model, stream, self.key)
            self.outcomes.append(outcome)
            await asyncio.sleep(self.pause)


async def ask(
    session: aiohttp.ClientSession, url: str, model: str, stream: bool, key: str | None = None, question: str = ""
) -> Outcome:
    """Ask one question, a new one if none is given, and check the answer."""
    question = question or f"question {uuid.uuid4().hex} with some words"
    began = time.monotonic()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": stream}
    rung, end, detail, acknowledged = "", "broken", "", None
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as got,
        ):
            rung, end = got.headers.get("x-forgeline-rung", ""), "cut"
            data = await got.read()
            if got.status != 200:
                end, detail = "refused", f"{got.status} {_error(data)}"
            else:
                end, detail = _read_stream(data, question, rung) if stream else _read_whole(data, question, rung)
            acknowledged = got.headers.get("x-request-id") if end == "well" else None
    except (aiohttp.ClientError, OSError) as fault:
        detail = repr(fault)
    return Outcome(began, time.monotonic(), stream, end, detail, rung, acknowledged)  # type: ignore[arg-type]


def _read_whole(data: bytes, question: str, rung: str) -> tuple[str, str]:
    choice = json.loads(data)["choices"][0]
    return _checked(choice["message"]["content"], choice["finish_reason"], question, rung)


def _read_stream(data: bytes, question: str, rung: str) -> tuple[str, str]:
    events = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
    last = events[-1] if events else ""
    if last != "[DONE]":
        return ("error event", _error(last.encode())) if '"error"' in last else ("cut", last)
    chunks = [json.loads(event) for event in events[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return _checked(text, choices[-1]["finish_reason"], question, rung)


def _checked(text: str, finish_reason: str, question: str, rung: str) -> tuple[str, str]:
    right = finish_reason == "stop" and (text == answer(question) or (rung in OTHER_RUNGS and text))
    return ("well", "") if right else ("wrong", text)


def _error(data: bytes) -> str:
    """Return the code of an error in OpenAI's shape; what has another shape is an error of ours."""
    try:
        error: dict[str, Any] = json.loads(data)["error"]
        return f"{error['code'] or error['type']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"NOT IN OPENAI'S SHAPE: {data[:200]!r}"
