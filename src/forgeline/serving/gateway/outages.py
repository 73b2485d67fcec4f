"""Tells when an engine goes down, and when it is back: once an outage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Literal

from forgeline.serving.engines import Engine

logger = logging.getLogger("forgeline.gateway")
LOOK_EVERY = 0.5  # seconds
Told = Callable[[Literal["engine.down", "engine.up"], str], None]


async def watch(engines: Callable[[], Mapping[str, Engine]], tell: Told) -> None:
    """Look at all engines there are, for ever; one is down if it was ready and is not, or if it is given up.

    An engine that still loads is not down.
    """
    up: dict[str, bool] = {}
    while True:
        for name, engine in engines().items():
            if engine.ready and up.get(name) is False:
                logger.warning("the engine %s is back", name)
                tell("engine.up", name)
            if not engine.ready and up.get(name, engine.failure is not None):
                logger.warning("the engine %s is down", name)
                tell("engine.down", name)
            if engine.ready or name in up or engine.failure is not None:
                up[name] = engine.ready
        await asyncio.sleep(LOOK_EVERY)
