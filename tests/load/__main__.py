"""Load and chaos, on loopback: `python -m tests.load [SCENARIO ...]`; about six minutes for all."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.load.deployment import NotHere
from tests.load.rollouts import ROLLOUTS
from tests.load.scenarios import SCENARIOS, Scenario


def main() -> int:
    """Run scenarios one after the other and print what happened in each window; return how many failed."""
    names = {scenario.__name__: scenario for scenario in (*SCENARIOS, *ROLLOUTS)}
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a window lasts")
    arguments = parser.parse_args()
    return sum(not _ran(names[name], arguments.seconds) for name in arguments.scenarios or names)


def _ran(scenario: Scenario, seconds: float) -> bool:
    began = time.monotonic()
    print(f"{scenario.__name__}: {scenario.__doc__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(asyncio.run(scenario(Path(folder), seconds)))
        except NotHere as reason:
            print(f"  not run: {reason}")
            return True
        except AssertionError as fault:
            print(f"  FAILED: {fault}")
            return False
    print(f"  held, {time.monotonic() - began:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
