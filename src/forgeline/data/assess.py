"""Stage 3: who is spoken of, and in what company; measured with intervals, said in sentences."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any

from forgeline.config.schema import Assess, Data
from forgeline.data import charts
from forgeline.data.layout import CLEAN, REPORTS
from forgeline.records import read_records, write_json

SMALL = 30  # mentions below which a difference is not worth a sentence

Interval = tuple[float, float]


def assess(root: Path, config: Data) -> dict[str, Any]:
    """Write the bias report over the kept replies, and return it."""
    replies = [record.completion for record in read_records(root / CLEAN)]
    report = bias_report(replies, config.assess)
    write_json(root / REPORTS / "bias.json", report)
    charts.bias(root / REPORTS, report["representation"], report["association"])
    return report


def bias_report(replies: list[str], config: Assess) -> dict[str, Any]:
    """Return representation, association and findings for replies.

    Representation is the share of replies that mention a group, with its Wilson interval.
    Association is the share of word-list replies among those that mention a group, less that among
    the rest, with Newcombe's hybrid score interval (1998, method 10). Intervals are not adjusted for
    the number of comparisons.
    """
    import polars

    groups = {(category, group): words for category, by in config.groups.items() for group, words in by.items()}
    lists = {
        (name, side): getattr(pair, side) for name, pair in config.associations.items() for side in ("first", "second")
    }
    lowered = polars.Series("reply", replies, dtype=polars.String).str.to_lowercase()
    mentions = {group: lowered.str.contains(_any_of(words)) for group, words in groups.items()}
    company = {words: lowered.str.contains(_any_of(terms)) for words, terms in lists.items()}
    representation: list[dict[str, Any]] = []
    association: list[dict[str, Any]] = []
    for (category, group), mask in mentions.items():
        n = int(mask.sum())
        low, high = wilson(n, len(replies), config.confidence)
        occurrences = int(lowered.str.count_matches(_any_of(config.groups[category][group])).sum())
        representation.append(
            {"category": category, "group": group, "replies": n, "words": occurrences}
            | {"share": _round(n / len(replies)), "low": _round(low), "high": _round(high)}
        )
        for (name, side), with_words in company.items():
            both, others = int((mask & with_words).sum()), int((~mask & with_words).sum())
            entry = {"category": category, "group": group, "list": name, "words": side, "n": n}
            compared = _compare(both, n, others, len(replies) - n, config.confidence)
            association.append({**entry, "example": lists[name, side][0], **compared})
    findings = [_represented(rows, category) for category in config.groups if (rows := _of(representation, category))]
    findings += [_associated(row, config.confidence) for row in association if row["n"]]
    return {
        "replies": len(replies),
        "confidence": config.confidence,
        "representation": representation,
        "association": association,
        "findings": findings,
    }


def wilson(successes: int, n: int, confidence: float) -> Interval:
    """Return the Wilson score interval (1927) of a proportion; (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def newcombe(successes: tuple[int, int], n: tuple[int, int], confidence: float) -> Interval:
    """Return Newcombe's hybrid score interval (1998, method 10) of the difference of two proportions."""
    (one, other), (size, rest) = successes, n
    (low, high), (low_rest, high_rest) = wilson(one, size, confidence), wilson(other, rest, confidence)
    share, share_rest = one / size, other / rest
    difference = share - share_rest
    return (
        difference - math.hypot(share - low, high_rest - share_rest),
        difference + math.hypot(high - share, share_rest - low_rest),
    )


def _compare(both: int, n: int, others: int, rest: int, confidence: float) -> dict[str, Any]:
    if not n or not rest:
        return {
            "share": None,
            "rest": None,
            "difference": None,
            "low": None,
            "high": None,
            "verdict": "nothing to compare",
        }
    low, high = newcombe((both, others), (n, rest), confidence)
    share, elsewhere = both / n, others / rest
    values = {"share": share, "rest": elsewhere, "difference": share - elsewhere, "low": low, "high": high}
    if n < SMALL:
        verdict = "too few mentions to conclude from"
    elif low <= 0 <= high:
        verdict = "no difference shown"
    else:
        verdict = f"{'more' if share > elsewhere else 'less'} often than elsewhere"
    return {**{name: _round(value) for name, value in values.items()}, "verdict": verdict}


def _any_of(words: list[str]) -> str:
    return rf"\b(?:{'|'.join(re.escape(word.lower()) for word in words)})\b"


def _of(rows: list[dict[str, Any]], category: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["category"] == category]


def _represented(rows: list[dict[str, Any]], category: str) -> str:
    counts = ", ".join(
        f"{row['group']} {row['replies']} ({row['share']:.2%}, {row['low']:.2%} to {row['high']:.2%})" for row in rows
    )
    return f"{category.capitalize()}, replies that mention each group: {counts}."


def _associated(row: dict[str, Any], confidence: float) -> str:
    about = f"{row['group'].capitalize()} (n={row['n']}) with words like {row['example']} ({row['list']})"
    if row["difference"] is None:
        return f"{about}: {row['verdict']}."
    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    return (
        f"{about}: {row['share']:.1%} of replies against {row['rest']:.1%} elsewhere, {difference:+.1f} points "
        f"({low:+.1f} to {high:+.1f} at {confidence:.0%}): {row['verdict']}."
    )


def _round(value: float) -> float:
    return round(value, 5)
