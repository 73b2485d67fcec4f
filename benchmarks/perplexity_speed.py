"""Perplexity beside lm-evaluation-harness: the same text, model, precision and tokens.

Command: python benchmarks/perplexity_speed.py
Two tasks on prompts of the test split: the accepted reply given its prompt (lm-eval's loglikelihood), which is what
an evaluation measures; and prompt and reply as one plain text (its loglikelihood_rolling), where every token counts.
lm-eval runs at the best of the batch sizes below, tried first. Both run in turn in one process, several rounds;
medians are printed of tokens a second (prompt and reply; padding does not count) and both values. Where other work
shares the machine, the ratio of core-seconds (what both computed) is the steadier one.
Needs `forgeline data` to have run, and for this alone: pip install --constraint requirements.lock lm-eval==0.4.13
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
PROJECT = Path(__file__).parent.parent
SEED = 17
BATCH_SIZES = (1, 4, 16, 64)
TRIED = 32  # prompts that each is tried on
Losses = list[tuple[float, int]]  # nats and tokens of each example


def perplexity(losses: Losses) -> float:
    """Return the token-weighted perplexity."""
    return math.exp(sum(nats for nats, _ in losses) / sum(tokens for _, tokens in losses))


def measured(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the seconds something takes, those of all cores that it computes, and what it gives."""
    started, computed = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - started, time.process_time() - computed, found


@dataclass(frozen=True)
class Task:
    """One text in tokens, and how both score it; lm-eval can be given the first few of its examples."""

    tokens: int
    ours: Callable[[], Losses]
    theirs: Callable[[int | None], Losses]


def tasks(records: Any, subject: Any, harness: Any) -> dict[str, Task]:
    """Return both tasks on the same records."""
    from lm_eval.api.instance import Instance

    from forgeline.models import encode_example
    from forgeline.models.score import text_losses

    tokenizer = subject.language_model.tokenizer
    examples = [encode_example(tokenizer, record) for record in records]
    texts = ["\n".join(turn.content for turn in record.messages) for record in records]
    sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    window = harness.max_length

    def their_replies(last: int | None = None) -> Losses:
        # By tokens: given strings, it moves the template's newline from the prompt into the reply.
        asked = [(("", ""), example.prompt, example.completion) for example in examples[:last]]
        answers = harness._loglikelihood_tokens(asked, disable_tqdm=True)
        return [(-logprob, len(reply)) for (logprob, _), (_, _, reply) in zip(answers, asked, strict=True)]

    def their_texts(last: int | None = None) -> Losses:
        asked = [Instance("loglikelihood_rolling", doc={}, arguments=(text,), idx=0) for text in texts[:last]]
        answers = harness.loglikelihood_rolling(asked, disable_tqdm=True)
        return [(-logprob, size) for logprob, size in zip(answers, sizes[:last], strict=True)]

    return {
        "replies": Task(sum(map(len, examples)), lambda: subject.losses(records), their_replies),
        "texts": Task(sum(sizes), lambda: text_losses(subject.language_model, texts, window, window // 2), their_texts),
    }


def compare(name: str, task: Task, harness: Any, rounds: int) -> str:
    """Measure a task several rounds; return what was found in a line."""
    tried = {}
    for size in BATCH_SIZES:
        harness.batch_size_per_gpu = size
        tried[size] = measured(lambda: task.theirs(TRIED))[1]
    best = harness.batch_size_per_gpu = min(tried, key=tried.__getitem__)
    shown = "  ".join(f"{size}: {took:.1f}" for size, took in tried.items())
    print(f"{name}: lm-eval's core-seconds by batch size, {TRIED} prompts:  {shown}", flush=True)
    walls: dict[str, list[float]] = {"lm-eval": [], "forgeline": []}
    cores: dict[str, list[float]] = {"lm-eval": [], "forgeline": []}
    values = {}
    for number in range(rounds):
        for who, work in (("lm-eval", lambda: task.theirs(None)), ("forgeline", task.ours)):
            wall, core, losses = measured(work)
            walls[who].append(wall)
            cores[who].append(core)
            values[who] = perplexity(losses)
            print(f"  round {number + 1}  {who:<9}  {task.tokens / wall:6.0f} tokens/s, {core:.1f} core-s", flush=True)
    rates = {who: task.tokens / statistics.median(each) for who, each in walls.items()}
    return (
        f"lm-eval (batch {best}) {rates['lm-eval']:.0f}, forgeline {rates['forgeline']:.0f} tokens/s, ratio "
        f"{ratio(walls)}, of core-seconds {ratio(cores)}; perplexity {values['lm-eval']:.5f} and "
        f"{values['forgeline']:.5f}, {abs(values['forgeline'] / values['lm-eval'] - 1):.1e} apart"
    )


def ratio(times: dict[str, list[float]]) -> str:
    """Return the median of lm-eval's times over ours, round by round, and the extremes."""
    found = [theirs / ours for theirs, ours in zip(times["lm-eval"], times["forgeline"], strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", choices=["replies", "texts"], help="one of the two only")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # lm-eval's and transformers'
    from lm_eval.models.huggingface import HFLM

    from forgeline.config import load
    from forgeline.evaluation.score import test_records
    from forgeline.evaluation.subjects import Local
    from forgeline.models import base_folder, load_base

    config = load(PROJECT, overrides=[f"train.dtype={given.dtype}", "train.device=cpu"])
    subject = Local("base", load_base(config.train, PROJECT))
    folder = str(base_folder(config.train.model, PROJECT))
    harness = HFLM(pretrained=folder, dtype=given.dtype, device="cpu", batch_size=1)
    records = test_records(PROJECT / "data/splits/test.jsonl", given.prompts, SEED)
    for name, task in tasks(records, subject, harness).items():
        if given.task in {None, name}:
            found = compare(name, task, harness, given.rounds)
            print(f"{name}, {given.dtype}, {len(records)} prompts: {found}")


if __name__ == "__main__":
    main()
