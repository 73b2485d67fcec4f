"""The time of 1,000 bootstrap resamples over 10,000 examples, and of as many exchanges for a p-value.

Command: python benchmarks/bootstrap_speed.py
The statistics are drawn at random, in the shape and size that real replies have: what they are does not change the
time. Each figure is the median of five.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from forgeline.evaluation.bootstrap import interval, resamples
from forgeline.evaluation.metrics import Bleu, Chrf, CorpusMetric, Mean
from forgeline.evaluation.metrics.corpus import Table
from forgeline.evaluation.permutation import exchange

SEED, REPEATS = 17, 5


class Score(Mean):
    """A mean of numbers between 0 and 1."""

    columns = ("tokens",)
    source = "this benchmark"


def bleu_table(examples: int, rng: np.random.Generator) -> Table:
    """Return matches and n-grams of four orders, and both lengths, of replies of 5 to 30 words."""
    length = rng.integers(5, 31, size=examples)
    ngrams = length[:, None] - np.arange(4)
    matches = rng.binomial(ngrams, [0.7, 0.5, 0.35, 0.25])
    return np.column_stack([matches, ngrams, length, length + rng.integers(-2, 3, size=examples)]).astype(float)


def chrf_table(examples: int, rng: np.random.Generator) -> Table:
    """Return hypothesis, reference and matching n-grams of six orders of replies of 30 to 150 characters."""
    sizes = rng.integers(30, 151, size=(examples, 2))
    columns = [(sizes[:, 0] - n, sizes[:, 1] - n, rng.binomial(sizes.min(axis=1) - n, 0.8 - n / 10)) for n in range(6)]
    return np.column_stack([column for order in columns for column in order]).astype(float)


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of some repeats."""
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def main() -> None:
    """Print a line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1_000)
    arguments = parser.parse_args()
    n, samples, rng = arguments.examples, arguments.samples, np.random.default_rng(SEED)
    mean = np.column_stack([rng.random(n), np.ones(n)])
    tables: list[tuple[CorpusMetric, Table]] = [
        (Score(), mean), (Bleu(), bleu_table(n, rng)), (Chrf(), chrf_table(n, rng))
    ]  # fmt: skip
    alone = seconds(lambda: resamples(n, samples, SEED))
    print(f"{samples:,} resamples of {n:,} examples; the draws alone {alone:.2f} s")
    for metric, table in tables:
        whole = seconds(lambda: interval(metric, table, samples, 0.95, SEED))  # noqa: B023 - called at once
        other = rng.permutation(table)
        swaps = seconds(lambda: exchange(metric, table, other, 0.0, samples, SEED))  # noqa: B023
        print(f"{metric.name:<6} interval {whole:.2f} s   p-value of a difference {swaps:.2f} s", flush=True)


if __name__ == "__main__":
    main()
