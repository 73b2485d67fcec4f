"""How often the shipped gates promote a worse model, and how often one that is just as good.

Command: python benchmarks/gate_simulation.py
Four models answer test prompts once (kept under .forgeline/gate_simulation): the base, two adapters that differ in
their seed alone, and one that was trained over and over on a few examples. Each repeat draws as many prompts as
configs/evaluate.yaml asks for, with replacement, and lets the comparison gates of configs/policy.yaml judge a
candidate against base and champion by the statistics of its replies there. The champion is one of the two adapters,
prompt by prompt at random; so is the candidate that is "equal", the other one, and nothing but chance is between them.
"At the margin" is that candidate with as many replies of the over-trained one as make it worse by just the margin.
Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from statistics import NormalDist

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from forgeline.config import Config, load
from forgeline.data.bias.intervals import wilson
from forgeline.evaluation import Report, evaluate
from forgeline.evaluation.metrics import Bleu
from forgeline.evaluation.subjects import Local
from forgeline.models import load_base, load_tuned
from forgeline.registry.evidence import compare
from forgeline.registry.gates import Evidence, judge, passed

PROJECT = Path(__file__).parent.parent
SPLITS, KEPT = PROJECT / "data/splits", PROJECT / ".forgeline/gate_simulation"
SEED = 17
# examples, epochs and seed of each adapter
ADAPTERS = {"adapter": (400, 1, SEED), "twin": (400, 1, SEED + 1), "over-trained": (16, 12, SEED)}
SCENARIOS = ("base", "over-trained", "at the margin", "equal")
Statistics = dict[str, np.ndarray]


class Asked(Local):
    """A model that is asked, and not weighed: BLEU needs no losses."""

    def losses(self, records):
        """Return None."""
        return


def replies(config: Config, prompts: int) -> dict[str, Report]:
    """Return each model's report, made now if it is not kept."""
    settings = config.evaluate.model_copy(update={"max_prompts": prompts, "metrics": {"bleu": None}})
    found = {}
    for name in ("base", *ADAPTERS):
        path = KEPT / f"{name}-{prompts}.json"
        if not path.exists():
            started = time.perf_counter()
            model = load_base(config.train, PROJECT) if name == "base" else _adapter(config, name)
            evaluate(Asked(name, model), SPLITS / "test.jsonl", settings, config.project.seed).save(path)
            print(f"{name}: made in {time.perf_counter() - started:.0f} s", flush=True)
        found[name] = Report.read(path)
    return found


def _adapter(config: Config, name: str):
    from forgeline.tuning import tune

    examples, epochs, seed = ADAPTERS[name]
    train = config.train.model_copy(update={"max_examples": examples, "epochs": epochs, "checkpoint_steps": 10**6})
    data = SPLITS / "train.jsonl", SPLITS / "validation.jsonl"
    tuned = tune(train, *data, KEPT / f"run-{name}", seed=seed, root=PROJECT, log=lambda *_: None)
    return load_tuned(train, Path(tuned.path), PROJECT)


def share_of_worse(pool: Statistics, margin: float) -> float:
    """Return with which share of the over-trained model's replies the adapters' BLEU falls by the margin."""
    good = (pool["adapter"] + pool["twin"]).sum(axis=0) / 2
    worse = pool["over-trained"].sum(axis=0)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if Bleu.value(good) - Bleu.value((1 - middle) * good + middle * worse) < margin
            else (low, middle)
        )  # fmt: skip
    return low


def drawn(pool: Statistics, scenario: str, n: int, share: float, rng: np.random.Generator):
    """Return which prompts a repeat has, and the statistics of candidate, champion and base there."""
    chosen = rng.integers(len(pool["base"]), size=n)
    rows = {name: table[chosen] for name, table in pool.items()}
    swapped = rng.random((n, 1)) < 0.5
    champion = np.where(swapped, rows["adapter"], rows["twin"])
    equal = np.where(swapped, rows["twin"], rows["adapter"])
    candidates = {
        "equal": equal,
        "at the margin": np.where(rng.random((n, 1)) < share, rows["over-trained"], equal),
    }
    return chosen, candidates.get(scenario, rows.get(scenario)), champion, rows["base"]


def simulate(config: Config, reports: dict[str, Report], scenario: str, repeats: int, share: float):
    """Return whether each repeat promoted the candidate, and its difference to the champion."""
    pool = {name: np.array(report.statistics["bleu"]) for name, report in reports.items()}
    n, rng = config.evaluate.max_prompts, np.random.default_rng(SEED)
    promoted, differences = [], []
    for _ in range(repeats):
        chosen, *tables = drawn(pool, scenario, n, share, rng)
        rows = [reports["base"].rows[place] for place in chosen]
        candidate, champion, base = (
            reports["base"].model_copy(update={"rows": rows, "statistics": {"bleu": table}}) for table in tables
        )
        evidence = Evidence(version=2, data_digest="", values={}, differences={}, champion=1)
        compare(config, candidate, {"base": base, "champion": champion}, evidence)
        promoted.append(passed(judge(config.policy, evidence)))
        differences.append(evidence.differences["champion"]["bleu"])
    return promoted, differences


def main() -> None:
    """Print for each candidate how often it was promoted, and what the margin can be expected to show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--pool", type=int, default=200, help="test prompts that the models answer")
    arguments = parser.parse_args()
    config = load(PROJECT)
    gates = {name: gate for name, gate in config.policy.gates.items() if gate.against}
    config = config.model_copy(update={"policy": config.policy.model_copy(update={"gates": gates})})
    [margin] = [gate.margin for gate in gates.values() if gate.margin is not None]
    reports = replies(config, arguments.pool)
    print("BLEU: " + ", ".join(f"{name} {report.metrics['bleu']}" for name, report in reports.items()))
    pool = {name: np.array(report.statistics["bleu"]) for name, report in reports.items()}
    share = share_of_worse(pool, margin)
    print(f"{arguments.repeats} repeats of {config.evaluate.max_prompts} prompts; gates: {', '.join(gates)}")
    for scenario in SCENARIOS:
        promoted, differences = simulate(config, reports, scenario, arguments.repeats, share)
        low, high = wilson(sum(promoted), len(promoted), 0.95)
        values = [each.value for each in differences]
        print(
            f"{scenario:<14} promoted {sum(promoted):>3} of {len(promoted)}: {np.mean(promoted):.1%} "
            f"[{low:.1%}, {high:.1%}]   difference to the champion {np.mean(values):+.2f} ± {np.std(values):.2f}",
            flush=True,
        )
    error, seen = float(np.std(values)), statistics.mean(each.detectable for each in differences)
    tail = NormalDist().inv_cdf((1 + config.evaluate.confidence) / 2)
    print(
        f"margin {margin:g} BLEU, standard error {error:.2f}: an equal model should pass with probability "
        f"{NormalDist().cdf(margin / error - tail):.0%}; detectable at {config.evaluate.power:.0%} power: {seen:.2f}"
    )


if __name__ == "__main__":
    main()
