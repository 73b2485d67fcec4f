"""The test behind an automatic abort: right however often one looks, and quick enough."""

from __future__ import annotations

import math
import random
import sys
from itertools import product
from math import comb
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # where the simulation lies

from benchmarks.rollout_simulation import LIVE, WORSE, aborted
from forgeline.config.schema.serve.rollout import Margins, Rollout
from forgeline.serving.gateway.rollout.evidence import Comparison, Evidence, Outcome, likelihood, nearest

SHIPPED = Margins().model_dump(exclude_none=True)
STRICT = dict.fromkeys(SHIPPED, 0.0)


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.1])
def test_a_block_is_worth_one_at_most_wherever_the_challenger_is_within_the_margin(margin: float) -> None:
    worst = 0.0
    for (live, tried), (low, high) in product(((1, 1), (9, 1), (3, 2), (1, 5)), ((0.01, 0.2), (0.1, 0.5), (0.4, 0.9))):
        null = nearest(low, high, live, tried, margin)
        for true_live, part in product((each / 50 for each in range(51)), (0.0, 0.5, 1.0)):
            true_tried = part * min(1.0, true_live + margin)
            worst = max(
                worst,
                sum(
                    comb(live, x) * true_live**x * (1 - true_live) ** (live - x)
                    * comb(tried, y) * true_tried**y * (1 - true_tried) ** (tried - y)
                    * math.exp(likelihood(x, live, low, null) + likelihood(y, tried, high, null + margin))
                    for x, y in product(range(live + 1), range(tried + 1))
                ),
            )  # fmt: skip
    assert 1 - 1e-4 < worst < 1 + 1e-9


def test_an_equal_version_is_left_alone() -> None:
    ends = [aborted(LIVE, share, STRICT, 0.05, 150, seed) for share in (0.1, 0.5) for seed in range(20)]
    assert sum(end is not None for end in ends) <= 2  # of 40, each with a chance of 5 % at most


@pytest.mark.parametrize("fault", ["errors 20 %", "toxic 30 %", "first token x2", "tokens x1.5"])
def test_a_worse_version_is_found_before_it_answered_200(fault: str) -> None:
    ends = [aborted(WORSE[fault], 0.1, SHIPPED, Rollout().alpha, 200, seed) for seed in range(5)]
    assert None not in ends


def test_one_that_is_better_is_never_bet_against() -> None:
    comparison, dice = Comparison(0.0), random.Random(1)
    for _ in range(2000):
        comparison.add(False, dice.random() < 0.3)
        comparison.add(True, dice.random() < 0.1)
    assert comparison.shown()["e_value"] < 2


def test_latencies_are_judged_by_what_was_live_before_them() -> None:
    evidence = Evidence({"first": 0.0}, 0.05, {"first": [0.1] * 10})
    for _ in range(200):
        evidence.add(True, Outcome(first=9.0))
    assert evidence.shown()["measures"]["first"]["slower_than"] is None  # ten are too few
    for _ in range(40):
        evidence.add(False, Outcome(first=0.1))
    assert evidence.shown()["measures"]["first"]["slower_than"] == 0.1
    for _ in range(20):
        evidence.add(True, Outcome(first=0.05, left=True))  # who left so soon tells nothing
        evidence.add(False, Outcome(first=0.1))
    assert evidence.shown()["measures"]["first"]["challenger"] == [0, 0]
    for _ in range(20):
        evidence.add(True, Outcome(first=0.2, left=True))
        evidence.add(False, Outcome(first=0.1))
    assert evidence.worse == "first"
