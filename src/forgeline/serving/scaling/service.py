"""How long one replica takes, by how many requests it answers at once: measured, and kept for the simulator."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from forgeline.config.schema.section import Positive, Seconds, Section
from forgeline.errors import ServingError
from forgeline.records import write_json

FOLDER = Path(".forgeline/service")  # a file for each machine of cost.yaml that was measured
LEVELS = (1, 2, 4, 8, 16)
TIMEOUT = 300.0  # seconds
Floats = NDArray[np.float64]


class Service(Section):
    """A replica: `slots` requests are answered at once, the others wait in it.

    While `at_once[i]` are answered, the first token of one comes after `first[i]` seconds and each further one after
    `token[i]`; between the levels both are taken to be straight lines. It is ready `start` seconds after it was asked
    for.
    """

    slots: Positive
    at_once: tuple[Positive, ...]
    first: tuple[Seconds, ...]
    token: tuple[Annotated[float, Field(ge=0)], ...]
    start: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _is_a_table(self) -> Service:
        if not len(self.at_once) == len(self.first) == len(self.token) > 0:
            raise ValueError("at_once, first and token must have as many values each")
        if list(self.at_once) != sorted(set(self.at_once)):
            raise ValueError("at_once must rise")
        return self

    def curves(self) -> tuple[Floats, Floats]:
        """Return seconds to the first token and from each to the next, (slots + 1); at 0 they are those at 1."""
        levels = np.maximum(1, np.arange(self.slots + 1))
        return np.interp(levels, self.at_once, self.first), np.interp(levels, self.at_once, self.token)

    def seconds(self, tokens: float) -> float:
        """Return how long a full replica takes for a reply."""
        first, token = self.curves()
        return float(first[-1] + max(0.0, tokens - 1) * token[-1])

    def throughput(self, tokens: float) -> float:
        """Return the most requests a second of one replica."""
        return self.slots / self.seconds(tokens)


def load(machine: str, root: Path) -> Service:
    """Return what was measured on a machine.

    Raises:
        ServingError: if nothing was, or it cannot be read.
    """
    path = root / FOLDER / f"{machine}.json"
    try:
        return Service.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ServingError(
            f"It was not measured how fast a replica is on {machine} ({path} is not there): run `forgeline measure "
            f"{machine}` while a deployment runs there."
        ) from None
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ServingError(f"{path} is no measurement of a replica: {where}: {first['msg']}") from fault


def save(service: Service, machine: str, root: Path) -> Path:
    """Keep what was measured on a machine; return where."""
    path = root / FOLDER / f"{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, service.model_dump(mode="json"))
    return path


class Asked(NamedTuple):
    """One streamed reply: seconds to the first token and from each to the next, and how many there were."""

    first: float
    token: float
    tokens: int


async def measure(
    url: str,
    headers: dict[str, str],
    bodies: Sequence[dict[str, Any]],
    slots: int,
    start: float,
    rounds: int = 4,
    levels: Sequence[int] = LEVELS,
) -> Service:
    """Ask a server of the chat API with one replica, by so many clients at once, each for several rounds.

    Medians of the rounds but the first, which warms up, are kept. `bodies` are asked in turn.

    Raises:
        ServingError: if it does not answer.
    """
    import aiohttp

    found: dict[int, list[Asked]] = {}
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            for level in sorted({level for level in levels if level < slots} | {slots}):

                async def client(number: int, level: int = level) -> list[Asked]:
                    chosen = [bodies[(number + level * turn) % len(bodies)] for turn in range(rounds + 1)]
                    return [await ask(session, url, body) for body in chosen][1:]

                asked = await asyncio.gather(*(client(number) for number in range(level)))
                found[level] = [one for each in asked for one in each]
    except (aiohttp.ClientError, TimeoutError) as fault:
        raise ServingError(f"{url} did not answer: {fault or 'it is silent'}") from fault
    return Service(
        slots=slots,
        at_once=tuple(found),
        first=tuple(statistics.median(one.first for one in level) for level in found.values()),
        token=tuple(statistics.median(one.token for one in level) for level in found.values()),
        start=start,
    )


async def ask(session: Any, url: str, body: dict[str, Any]) -> Asked:
    """Return how long a streamed reply took; raise ServingError if the server refuses."""
    import aiohttp

    began, first, tokens = time.perf_counter(), 0.0, 0
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with session.post(f"{url}/chat/completions", json=asked, timeout=timeout) as answer:
        if answer.status != 200:
            raise ServingError(f"{url} refused to be measured ({answer.status}): {(await answer.text())[:200]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if not first and any(choice["delta"].get("content") for choice in chunk.get("choices") or ()):
                first = time.perf_counter() - began
            with suppress(TypeError, KeyError):
                tokens = chunk["usage"]["completion_tokens"]
    whole = time.perf_counter() - began
    first = first or whole
    return Asked(first, (whole - first) / max(1, tokens - 1), tokens)
