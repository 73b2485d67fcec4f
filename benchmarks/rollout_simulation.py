"""How often a roll-out of an equal version is aborted, and after how many of its replies one that is worse is.

Command: python benchmarks/rollout_simulation.py
Each simulated roll-out deals requests to what is live and to the challenger by the share, and gives what became of each
to the test that the gateway runs (src/forgeline/serving/gateway/rollout/evidence.py), with the margins and alpha of
configs/serve.yaml, and once more without margins. Live, 1 % of the requests fail, 4 % are flagged or withheld by a
guard, one in twenty replies gets a thumb, which is down in 15 %, and latencies are log-normal (sigma 0.5 to the first
token, 0.25 from one to the next). A roll-out that is not aborted ends after so many replies of the challenger as
`--requests` says. The times that a fault is found after are medians and 90th percentiles of the challenger's replies.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from forgeline.config import load
from forgeline.data.bias.intervals import wilson
from forgeline.serving.gateway.rollout.evidence import TIMES, Evidence, Outcome

SHARES = (0.05, 0.1, 0.2, 0.5)
RATED = 0.05


@dataclass(frozen=True)
class Version:
    """How a version behaves: rates of faults, and how much slower than what is live."""

    error: float = 0.01
    guard: float = 0.04
    thumb: float = 0.15
    first: float = 1.0
    pace: float = 1.0

    def outcome(self, dice: random.Random) -> Outcome:
        """Return what becomes of one request."""
        if dice.random() < self.error:
            return Outcome(error=True)
        return Outcome(
            error=False,
            guard=dice.random() < self.guard,
            thumb=dice.random() < self.thumb if dice.random() < RATED else None,
            first=self.first * 0.2 * dice.lognormvariate(0, 0.5),
            pace=self.pace * 0.02 * dice.lognormvariate(0, 0.25),
        )


LIVE = Version()
WORSE = {
    "errors 5 %": replace(LIVE, error=0.05),
    "errors 20 %": replace(LIVE, error=0.2),
    "errors 50 %": replace(LIVE, error=0.5),
    "toxic 10 %": replace(LIVE, guard=0.14),
    "toxic 30 %": replace(LIVE, guard=0.34),
    "first token x1.5": replace(LIVE, first=1.5),
    "first token x2": replace(LIVE, first=2.0),
    "tokens x1.25": replace(LIVE, pace=1.25),
    "tokens x1.5": replace(LIVE, pace=1.5),
    "thumbs down 60 %": replace(LIVE, thumb=0.6),
}


def aborted(
    version: Version, share: float, margins: dict[str, float], alpha: float, most: int, seed: int
) -> int | None:
    """Return after how many of its replies a challenger is aborted; None if it is not."""
    dice, served = random.Random(seed), 0
    known = [LIVE.outcome(dice) for _ in range(500)]
    latencies = {name: [value for one in known if (value := getattr(one, name)) is not None] for name in TIMES}
    evidence = Evidence(margins, alpha, latencies)
    while served < most:
        challenger = dice.random() < share
        served += challenger
        evidence.add(challenger, (version if challenger else LIVE).outcome(dice))
        if evidence.worse:
            return served
    return None


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=1000, help="simulated roll-outs of an equal version, for each share"
    )
    parser.add_argument("--found", type=int, default=200, help="those of each worse one")
    parser.add_argument("--requests", type=int, default=1000, help="replies of a challenger that is not aborted")
    arguments = parser.parse_args()
    settings, began = load(Path(__file__).parent.parent).serve.rollout, time.perf_counter()
    shipped = settings.margins.model_dump(exclude_none=True)
    for name, margins in {"no margins": dict.fromkeys(shipped, 0.0), "margins as shipped": shipped}.items():
        print(f"\n{name}, alpha {settings.alpha:g}: an equal version")
        for share in SHARES:
            ends = [
                aborted(LIVE, share, margins, settings.alpha, arguments.requests, seed)
                for seed in range(arguments.runs)
            ]
            bad = sum(end is not None for end in ends)
            low, high = wilson(bad, len(ends), 0.95)
            print(f"  share {share:4.0%}: {bad} of {len(ends)} aborted, 95 % interval {low:.1%} to {high:.1%}")
        print(f"{name}: replies of a worse version before it is aborted, median / 90th percentile")
        print(f"  {'':<18}" + "".join(f"{f'share {share:.0%}':>14}" for share in SHARES))
        for fault, version in WORSE.items():
            cells = []
            for share in SHARES:
                ends = [
                    aborted(version, share, margins, settings.alpha, arguments.requests, seed) or math.inf
                    for seed in range(arguments.found)
                ]
                ends.sort()
                cells.append(f"{statistics.median(ends):6.0f} / {ends[math.ceil(0.9 * len(ends)) - 1]:5.0f}")
            print(f"  {fault:<18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
