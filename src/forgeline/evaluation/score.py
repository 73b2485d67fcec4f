"""Evaluate one model on the frozen test prompts."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from forgeline.config.schema import Evaluate
from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import interval
from forgeline.evaluation.metrics import METRICS, Bleu, Chrf, CorpusMetric, Perplexity, StopRate
from forgeline.evaluation.report import Report, Row
from forgeline.lineage import value_digest
from forgeline.models import LanguageModel, encode_example, generate
from forgeline.progress import progress_bar
from forgeline.records import Record, read_records


def test_records(path: Path, limit: int | None, seed: int) -> list[Record]:
    """Return the seeded sample of the test split that every model is scored on.

    Raises:
        EvaluationError: if the split is empty.
    """
    records = read_records(path)
    if not records:
        raise EvaluationError(f"{path} holds no test prompts: raise split.test in configs/data.yaml or add data.")
    if limit is not None and limit < len(records):
        records = random.Random(seed).sample(records, limit)
    return records


def evaluate(language_model: LanguageModel, name: str, test: Path, config: Evaluate, seed: int) -> Report:
    """Return a model's report: greedy replies scored by BLEU, chrF and stop rate, and its perplexity.

    Args:
        language_model: what to score.
        name: what the report calls it.
        test: the test split; each record's references are its accepted replies.
        config: how many prompts, how long a reply, how sure.
        seed: of the sample and the bootstrap.
    """
    records = test_records(test, config.max_prompts, seed)
    examples = [encode_example(language_model.tokenizer, record) for record in records]
    references = [record.references or [record.completion] for record in records]

    started = time.perf_counter()
    with progress_bar(f"evaluate {name}", len(examples), unit="replies") as progress:
        replies = generate(
            language_model,
            [example.prompt for example in examples],
            config.max_new_tokens,
            config.batch_size,
            advance=lambda count: progress.advance(count, amount=count),
        )
    generated = time.perf_counter()
    texts = [reply.text for reply in replies]
    scored: dict[str, tuple[CorpusMetric, dict[str, Any]]] = {
        "bleu": (Bleu(keep_in_memory=True), {"predictions": texts, "references": references}),
        "chrf": (Chrf(keep_in_memory=True), {"predictions": texts, "references": references}),
        "stop_rate": (StopRate(keep_in_memory=True), {"predictions": [reply.stopped for reply in replies]}),
        "perplexity": (
            Perplexity(language_model),
            {"prompts": [e.prompt for e in examples], "completions": [e.completion for e in examples]},
        ),
    }
    statistics = {metric: scorer.compute(**columns)["statistics"] for metric, (scorer, columns) in scored.items()}
    return Report(
        model=name,
        test_digest=value_digest([record.model_dump() for record in records]),
        vocabulary=language_model.vocabulary,
        signature=Bleu.signature(),
        metrics={
            metric: interval(np.array(table), METRICS[metric].value, config.bootstrap_samples, config.confidence, seed)
            for metric, table in statistics.items()
        },
        seconds={"generate": round(generated - started, 3), "score": round(time.perf_counter() - generated, 3)},
        rows=[
            Row(
                id=record.id,
                prompt=record.messages[-2].content,
                references=accepted,
                reply=reply.text,
                tokens=reply.tokens,
                stopped=reply.stopped,
                groups=record.groups,
            )
            for record, accepted, reply in zip(records, references, replies, strict=True)
        ],
        statistics=statistics,
    )
