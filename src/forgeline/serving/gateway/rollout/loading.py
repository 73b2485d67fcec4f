"""A challenger before anybody is answered by it: it must be ready, and say what it must."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from forgeline.errors import ForgelineError
from forgeline.serving.engines import GenerationRequest
from forgeline.serving.gateway.arm import Arm
from forgeline.serving.gateway.rollout.change import Question
from forgeline.serving.order import Order

LOOK_EVERY = 0.1  # seconds
REMOTE_SECONDS = 60.0  # that an engine which is not started here may take to be ready, or to answer


async def ready(arm: Arm, order: Order) -> None:
    """Return once an arm's own engine is ready; raise what it failed with, or TimeoutError."""
    supervision = getattr(order.serve.engine, "supervision", None)
    async with asyncio.timeout(supervision.start_timeout if supervision else REMOTE_SECONDS):
        while not arm.engine.ready:
            if arm.engine.failure is not None:
                raise arm.engine.failure
            await asyncio.sleep(LOOK_EVERY)


async def asked(arm: Arm, questions: list[Question]) -> None:
    """See that an engine answers, and says to each question what it must."""
    for question in questions or [Question([{"role": "user", "content": "Hello"}], "", 1)]:
        request = GenerationRequest(question.messages, question.max_tokens, temperature=0, seed=0)
        async with asyncio.timeout(REMOTE_SECONDS), aclosing(arm.engine.generate(request)) as reply:
            said = "".join([piece.text async for piece in reply])
        if questions and said != question.reply:
            raise ForgelineError(f"to a smoke prompt it says {said!r}, the bundle says {question.reply!r}.")
