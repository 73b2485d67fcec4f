"""Generation of the test replies beside a plain loop over transformers' pipeline().

Command: python benchmarks/generation_speed.py
The same model, greedy, in float32, with the shipped limit of new tokens and batch size. Both run in turn in one
process, several rounds; medians are printed of reply tokens a second, and on how many prompts the text is the same.
Needs `forgeline data` to have run.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from pathlib import Path

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

    times: dict[str, list[float]] = {"pipeline": [], "forgeline": []}
    for number in range(given.rounds):
        started = time.perf_counter()
        texts = theirs()
        between = time.perf_counter()
        replies = subject.replies(prompts, limit)
        times["pipeline"].append(between - started)
        times["forgeline"].append(time.perf_counter() - between)
        took = "  ".join(f"{who} {each[-1]:.1f} s" for who, each in times.items())
        print(f"round {number + 1}  {took}", flush=True)
    tokens = sum(reply.tokens for reply in replies)
    same = sum(reply.text == text for reply, text in zip(replies, texts, strict=True))
    ratios = [theirs / ours for theirs, ours in zip(times["pipeline"], times["forgeline"], strict=True)]
    rates = {who: tokens / statistics.median(each) for who, each in times.items()}
    print(
        f"float32, {len(prompts)} prompts, {tokens} reply tokens: pipeline {rates['pipeline']:.0f}, forgeline "
        f"{rates['forgeline']:.0f} tokens/s, ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max "
        f"{max(ratios):.2f}); the same text on {same} of {len(prompts)} prompts"
    )


if __name__ == "__main__":
    main()
