"""What waiting awake and trying the number of threads again bring `transformers`, alone and beside other work.

Command: python benchmarks/decoding_threads.py
The base model of configs/train.yaml as a bundle, in this processor's faster precision, eight callers at once, greedy,
64 new tokens. Threads sleep as soon as they wait, or stay awake for 0.1 ms first (GOMP_SPINCOUNT); their number is
found out at the start alone, or again while decoding goes on (`pace`). The other work is a busy process that comes
after the engine has started. Each setting has a process of its own, in turn, several rounds; medians are printed.
Needs `forgeline data`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from engine_speed import CLIENTS, PROJECT, SEED, TOKENS, bundled

SETTINGS = {"asleep, once": (0, False), "awake, once": (10_000, False), "awake, again": (10_000, True)}
PROMPTS = 32
BUSY = "while True: pass"


def main() -> None:
    """Print tokens a second by setting, alone and beside other work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)  # run as one engine's process
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--others", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bundle:
        print(json.dumps(asyncio.run(_rate(given.bundle, given.again, given.others))))
        return
    from forgeline.models.load import fastest_precision

    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = bundled(Path(folder), fastest_precision())
        for _ in range(given.rounds):
            for others in (0, 1):
                for name, (spins, again) in SETTINGS.items():
                    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(spins)}
                    command = [sys.executable, __file__, "--bundle", str(made), "--others", str(others)]
                    command += ["--again"] if again else []
                    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                    rates.setdefault((name, others), []).append(json.loads(done.stdout.splitlines()[-1]))
                    print(f"{name}, {others} others: {rates[name, others][-1]:.0f} tokens/s", flush=True)
    for name in SETTINGS:
        alone, beside = (statistics.median(rates[name, others]) for others in (0, 1))
        print(f"{name:<13} {alone:5.0f} tokens/s alone, {beside:5.0f} beside another busy process")


async def _rate(made: Path, again: bool, others: int) -> float:
    from forgeline.evaluation.score import test_records
    from forgeline.serving.engines import GenerationRequest, pace
    from forgeline.serving.engines.embedded import Embedded
    from forgeline.serving.engines.transformers import Rows

    if not again:
        pace.REST = math.inf
    engine = Embedded("transformers", Rows(made, PROJECT))
    await engine.start()
    while not engine.ready:
        if engine.failure:
            raise engine.failure
        await asyncio.sleep(0.1)
    prompts = [record.prompt for record in test_records(PROJECT / "data/splits/test.jsonl", PROMPTS, SEED)]

    async def client(waiting: list[list[dict[str, str]]]) -> int:
        tokens = 0
        while waiting:
            async with aclosing(engine.generate(GenerationRequest(waiting.pop(), TOKENS, 0.0))) as reply:
                tokens += [piece async for piece in reply][-1].usage.completion_tokens
        return tokens

    async def asked(number: int) -> int:
        waiting = prompts[:number]
        return sum(await asyncio.gather(*(client(waiting) for _ in range(CLIENTS))))

    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]
    try:
        await asked(CLIENTS)
        began = time.perf_counter()
        return await asked(PROMPTS) / (time.perf_counter() - began)
    finally:
        for process in busy:
            process.kill()
            process.wait()
        await engine.close()


if __name__ == "__main__":
    main()
