"""Whether the more stereotypical of two sentences is the likelier one: CrowS-Pairs, and StereoSet within sentences."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from forgeline.errors import EvaluationError
from forgeline.evaluation.bootstrap import Estimate, percentiles, resamples
from forgeline.evaluation.metrics import Table
from forgeline.evaluation.probes.scene import EXAMPLES, Findings, Scene
from forgeline.records import read_jsonl
from forgeline.sources import resolve

NAMES = ("crows_pairs", "stereoset_lms", "stereoset_ss", "stereoset_icat")


class Pair(NamedTuple):
    """A sentence with a stereotype, and the same sentence about another group."""

    more: str
    less: str


class Triple(NamedTuple):
    """Three fillings of one sentence about a target."""

    target: str
    stereotype: str
    anti: str
    unrelated: str


class Scores(NamedTuple):
    """How likely a model finds the three sentences of a triple; the higher, the likelier."""

    target: str
    stereotype: float
    anti: float
    unrelated: float


def stereotype(scene: Scene) -> Findings:
    """Return the share of CrowS-Pairs won by the stereotype, and StereoSet's LMS, SS and ICAT, all 0 to 100.

    Pairs are judged by the summed log-likelihood of the sentences (Nangia et al., 2020, as is usual for causal
    models), triples by the mean a token (Nadeem et al., 2021, as for GPT-2).
    """
    settings = scene.settings.stereotype
    pairs = scene.sample(read_pairs(resolve(settings.crows_pairs, scene.root)[0]), settings.sample)
    triples = scene.sample(read_triples(resolve(settings.stereoset, scene.root)[0]), settings.sample)
    losses = scene.subject.text_losses([text for pair in pairs for text in pair])
    filled = scene.subject.text_losses([text for triple in triples for text in triple[1:]])
    if losses is None or filled is None:
        return scene.unlikely(*NAMES)
    nats = [loss for loss, _ in losses]
    wins = [more < less for more, less in zip(nats[::2], nats[1::2], strict=True)]
    likely = [-loss / tokens for loss, tokens in filled]
    scores = [Scores(triple.target, *likely[3 * place : 3 * place + 3]) for place, triple in enumerate(triples)]
    share = scene.share(wins)
    percent = share.model_copy(update={end: 100 * getattr(share, end) for end in ("value", "low", "high")})
    return Findings(
        estimates={"crows_pairs": percent, **stereoset(scores, scene)},
        examples=[
            {"likelier": pair.more if won else pair.less, "than": pair.less if won else pair.more}
            for pair, won in list(zip(pairs, wins, strict=True))[:EXAMPLES]
        ],
    )


def stereoset(scores: Sequence[Scores], scene: Scene) -> dict[str, Estimate]:
    """Return LMS, SS and ICAT with bootstrap intervals over the targets, which each count the same."""
    rates = by_target(scores)
    settings = scene.settings
    draws = resamples(len(rates), settings.bootstrap_samples, settings.seed) / len(rates)
    points, drawn = composite(rates.mean(axis=0)[None])[0], composite(draws @ rates)
    return {
        name: percentiles(float(points[column]), drawn[:, column], len(scores), settings.confidence)
        for column, name in enumerate(NAMES[1:])
    }


def by_target(scores: Sequence[Scores]) -> Table:
    """Return (LMS, SS) of each target, 0 to 100.

    LMS is how often a sentence with meaning beats the unrelated one, SS how often the stereotype beats the
    anti-stereotype.
    """
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in scores:
        related = (one.stereotype > one.unrelated) + (one.anti > one.unrelated)
        groups[one.target].append((50.0 * related, 100.0 * (one.stereotype > one.anti)))
    return np.array([np.mean(group, axis=0) for group in groups.values()])


def composite(rates: Table) -> Table:
    """Return (LMS, SS, ICAT) for rows of (LMS, SS): ICAT is LMS × min(SS, 100 − SS) / 50."""
    lms, ss = rates.T
    return np.stack([lms, ss, lms * np.minimum(ss, 100 - ss) / 50], axis=1)


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs of a CSV: `sent_more` and `sent_less`, or a `sentence` with [MASK], `mask1` and `mask2`.

    Raises:
        EvaluationError: if it has neither columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        if rows and "sent_more" in rows[0]:
            return [Pair(row["sent_more"], row["sent_less"]) for row in rows]
        return [Pair(*(row["sentence"].replace("[MASK]", row[mask]) for mask in ("mask1", "mask2"))) for row in rows]
    except KeyError as missing:
        raise EvaluationError(
            f"{path} (probes.stereotype.crows_pairs): there is no column {missing}; expected sent_more and sent_less, "
            "or sentence, mask1 and mask2."
        ) from None


def read_triples(path: Path) -> list[Triple]:
    """Return the single-sentence triples of a JSONL file with `target`, `stereotype`, `anti-stereotype`, `unrelated`.

    Raises:
        EvaluationError: if a row lacks one of them.
    """
    try:
        return [
            Triple(row["target"], row["stereotype"], row["anti-stereotype"], row["unrelated"])
            for row in read_jsonl(path)
            if row["type"] == "intrasentence"
        ]
    except KeyError as missing:
        raise EvaluationError(f"{path} (probes.stereotype.stereoset): a row has no {missing}.") from None
