"""All measures of bias over tables of rows, as one report with figures, sentences and values for gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import pyarrow

from forgeline.config.schema import Assess
from forgeline.data.bias import association, counterfactual, disparity, representation
from forgeline.data.bias.groups import listed
from forgeline.data.bias.intervals import SMALL, Row, shown
from forgeline.data.bias.tally import EVERYONE, Sums, Tally, tally

Done = TypeVar("Done")
# Calls a function of a table for each of the tables, in their order; the function can be pickled.
Over = Callable[[Callable[[pyarrow.Table], Any]], Iterable[Any]]


def bias_report(over: Over, config: Assess, removed: Iterable[Sums] = ()) -> dict[str, Any]:
    """Return the report on the replies of tables, and on rows that were `removed` before (`disparity.removed`).

    Rows count by their weights, which are 1 unless their source or a mitigation says otherwise. The
    tables are read twice: the second time a sample of the replies that mention a group is scored.
    Intervals are not adjusted for the number of comparisons.
    """
    sums = Tally(over(partial(tally, config=config)))
    shares = {group: min(1.0, config.sample / max(1.0, sums.of(group, "characters").rows)) for group in listed(config)}
    sampled = counterfactual.Sampled.together(over(partial(counterfactual.sample, config=config, shares=shares)))
    represented = representation.representation(sums, config)
    associated = association.association(sums, config)
    words = association.words(sampled.words, sampled.replies, config)
    gaps = counterfactual.counterfactual(sampled, config)
    tones = counterfactual.tone(sampled, config)
    lengths = disparity.disparities(sums, config)
    liked = disparity.labels(sums, config)
    preferred = disparity.preferences(sums, config)
    gone = Tally(removed)
    lost = disparity.fates(sums, gone, config) if gone.sums else []
    return {
        "replies": int(sums.of(EVERYONE, "characters").rows),
        "confidence": config.confidence,
        "gates": gates(associated, gaps, tones, lengths, liked),
        "representation": represented,
        "association": associated,
        "words": words,
        "counterfactual": gaps,
        "tone": tones,
        "disparity": lengths,
        "labels": liked,
        "preferences": preferred,
        "fates": lost,
        "findings": [
            *representation.sentences(represented),
            *association.sentences(associated, words, config.confidence),
            *counterfactual.sentences(gaps, tones, config.confidence),
            *disparity.sentences(lengths, liked, preferred, lost, config.confidence),
        ],
    }


def gates(
    associated: list[Row], gaps: list[Row], tones: list[Row], lengths: list[Row], liked: list[Row]
) -> dict[str, float]:
    """Return the evidence that gates can bound; an entry is missing where there was nothing to measure.

    `counterfactual_gap` is the end farthest from zero of any gap's interval, of groups with enough
    replies: no gap is larger, at the report's confidence. The others are the largest difference that
    is shown, and 0 if none is: of shares of word lists (`association_gap`), of tone (`tone_gap`), of mean
    length relative to the others' (`length_disparity`), of the share of liked replies (`label_disparity`).
    """
    values: dict[str, float] = {}
    if enough := [row for row in gaps if row["n"] >= SMALL]:
        values["counterfactual_gap"] = max(max(abs(row["low"]), abs(row["high"])) for row in enough)
    if associated:
        values["association_gap"] = _largest(associated)
    if tones:
        values["tone_gap"] = _largest(tones)
    if characters := [row for row in lengths if row["measure"] == "characters"]:
        values["length_disparity"] = max(
            [round(abs(row["difference"]) / row["rest"], 5) for row in characters if shown(row)], default=0.0
        )
    if by_group := [row for row in liked if row["category"] != "all"]:
        values["label_disparity"] = _largest(by_group)
    return values


def _largest(rows: list[Row]) -> float:
    return max((abs(row["difference"]) for row in rows if shown(row)), default=0.0)
