"""Generation of the test replies beside a plain loop over transformers' pipeline().

Command: python benchmarks/generation_speed.py
The same model, greedy, in float32, with the shipped limit of new tokens and batch size. Both run in turn in one
process, several rounds; medians are printed of reply tokens a second, and on how many prompts the text is the same.
Where other work shares the machine, the ratio of core-seconds (what both computed) is the steadier one.
Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent
SEED = 17


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=75)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # transformers'
    from transformers import pipeline

    from forgeline.config import load
    from forgeline.evaluation.score import test_records
    from forgeline.evaluation.subjects import Local
    from forgeline.models import base_folder, load_base

    config = load(PROJECT, overrides=["train.dtype=float32", "train.device=cpu"])
    limit = config.evaluate.max_new_tokens
    subject = Local("base", load_base(config.train, PROJECT), config.evaluate.batch_size)
    loop = pipeline("text-generation", str(base_folder(config.train.model, PROJECT)), dtype="float32", device="cpu")
    records = test_records(PROJECT / "data/splits/test.jsonl", given.prompts, SEED)
    prompts = [record.prompt for record in records]

    def theirs() -> list[str]:
        answers = [loop(prompt, max_new_tokens=limit, do_sample=False) for prompt in prompts]
        return [answer[0]["generated_text"][-1]["content"].strip() for answer in answers]

    works = {"pipeline": theirs, "forgeline": lambda: subject.replies(prompts, limit)}
    walls: dict[str, list[float]] = {who: [] for who in works}
    cores: dict[str, list[float]] = {who: [] for who in works}
    said: dict[str, Any] = {}
    for number in range(given.rounds):
        for who, work in works.items():
            started, computed = time.perf_counter(), time.process_time()
            said[who] = work()
            walls[who].append(time.perf_counter() - started)
            cores[who].append(time.process_time() - computed)
            print(f"round {number + 1}  {who:<9}  {walls[who][-1]:.1f} s, {cores[who][-1]:.1f} core-s", flush=True)
    replies = said["forgeline"]
    tokens = sum(reply.tokens for reply in replies)
    same = sum(reply.text == text for reply, text in zip(replies, said["pipeline"], strict=True))
    rates = {who: tokens / statistics.median(each) for who, each in walls.items()}
    print(
        f"float32, {len(prompts)} prompts, {tokens} reply tokens: pipeline {rates['pipeline']:.0f}, forgeline "
        f"{rates['forgeline']:.0f} tokens/s, ratio {ratio(walls)}, of core-seconds {ratio(cores)}; "
        f"the same text on {same} of {len(prompts)} prompts"
    )


def ratio(times: dict[str, list[float]]) -> str:
    """Return the median of the pipeline's times over ours, round by round, and the extremes."""
    found = [theirs / ours for theirs, ours in zip(times["pipeline"], times["forgeline"], strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


if __name__ == "__main__":
    main()
