"""The metrics on replies to the real test prompts: equal to their references, and how long each takes.

Command: python benchmarks/metric_speed.py
The base model answers; BLEU, chrF and TER must be sacreBLEU's corpus scores, ROUGE the mean of rouge-score's, each
against all references. Every metric of configs/evaluate.yaml is timed; the slot error rate of people's own replies
is printed too. `--report` takes the replies of a saved report instead, such as a file below .forgeline/evaluations/.
Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent


def reference_values(replies: list[str], references: list[list[str]]) -> dict[str, float]:
    """Return what sacreBLEU and rouge-score say."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF, TER

    most = max(map(len, references))
    streams = [[accepted[n] if n < len(accepted) else None for accepted in references] for n in range(most)]
    found = {
        name: scorer.corpus_score(replies, streams).score
        for name, scorer in {"bleu": BLEU(), "chrf": CHRF(), "ter": TER()}.items()
    }
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score_multi(accepted, reply) for accepted, reply in zip(references, replies, strict=True)]
    for kind in scorer.rouge_types:
        found[f"rouge_{kind[-1].lower()}"] = statistics.mean(score[kind].fmeasure for score in scores)
    return found


def main() -> None:
    """Score the replies, compare, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    from forgeline.config import load
    from forgeline.evaluation import Report, evaluate
    from forgeline.evaluation.metrics import METRICS, create
    from forgeline.evaluation.subjects import Local
    from forgeline.models import load_base

    config = load(PROJECT, overrides=[f"evaluate.max_prompts={given.prompts}"])
    if given.report:
        report = Report.read(given.report)
    else:
        subject = Local("base", load_base(config.train, PROJECT), config.evaluate.batch_size)
        report = evaluate(subject, PROJECT / "data/splits/test.jsonl", config.evaluate, config.project.seed)
        print(f"generated in {report.seconds['generate']} s, scored in {report.seconds['score']} s")
    columns: dict[str, list[Any]] = {
        "predictions": [row.reply for row in report.rows],
        "references": [row.references for row in report.rows],
        "prompts": [row.prompt for row in report.rows],
        "stopped": [row.stopped for row in report.rows],
        "tokens": [row.tokens for row in report.rows],
        "waited": [1.0] * len(report.rows),
        "seconds": [1.0] * len(report.rows),
    }
    chosen = create(dict.fromkeys(["rouge_1", "rouge_2"])) | create(config.evaluate.metrics)
    expected = reference_values(columns["predictions"], columns["references"])
    print(f"{len(report.rows)} replies of {report.model}")
    for name, metric in chosen.items():
        if not {*metric.columns} <= columns.keys():
            continue  # the likelihood has a benchmark of its own
        started, computed = time.perf_counter(), time.process_time()
        found = metric.compute(**{column: columns[column] for column in metric.columns})[metric.name]
        wall, cores = time.perf_counter() - started, time.process_time() - computed
        beside = ""
        if name in expected:
            assert abs(found - expected[name]) < 1e-9, (name, found, expected[name])
            beside = f"  reference {expected[name]:.6f}, equal"
        print(f"{name:<16} {found:>10.6f}  {wall:6.2f} s, {cores:5.2f} core-s{beside}")
    people = [accepted[0] for accepted in columns["references"]]
    slots = METRICS["slot_error_rate"](ignore=["act"]).compute(predictions=people, prompts=columns["prompts"])
    print(f"slot error rate of people's first replies: {slots['slot_error_rate']:.4f}")


if __name__ == "__main__":
    main()
