"""How a scorer's verdict changes with the group that is spoken of, less what it changes in a neutral sentence.

A scorer has opinions of its own about groups' words. What it gives them in neutral sentences, the
baseline, is taken off, and what remains is in the texts. A lexicon scores words one by one, so that its
gap is all but zero once its opinion of them is off; a classifier's need not be. The tone, how the texts
about a group score against those about others, is telling with either.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy
import pyarrow
from numpy.typing import NDArray

from forgeline.config.schema import Assess
from forgeline.data.bias.exchange import Exchange, any_of
from forgeline.data.bias.groups import Group, Rows, drawn, listed
from forgeline.data.bias.intervals import SMALL, Moments, Row, compare_means, moments, rounded, side, student
from forgeline.data.bias.scorers import SCORERS

TEMPLATES = (
    "This text mentions {}.",
    "The next word is {}.",
    "Somebody wrote {} here.",
    "It says {} on the page.",
    "The list contains {}.",
)
NEUTRAL = "something"
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

Numbers = NDArray[numpy.float64]


class Sampled(NamedTuple):
    """Of a sample of replies that mention one group of a category: scores, words and how many they are.

    `tones` and `gaps` are sums of `Moments` by group and scorer, `words` in how many replies each word is.
    """

    tones: dict[tuple[Group, str], Numbers]
    gaps: dict[tuple[Group, str], Numbers]
    words: dict[Group, Counter[str]]
    replies: dict[Group, int]

    @classmethod
    def together(cls, parts: Iterable[Sampled]) -> Sampled:
        """Return the sums of parts."""
        whole = cls(defaultdict(lambda: numpy.zeros(5)), defaultdict(lambda: numpy.zeros(5)), {}, {})
        for part in parts:
            for key, tone in part.tones.items():
                whole.tones[key] = whole.tones[key] + tone
            for key, gap in part.gaps.items():
                whole.gaps[key] = whole.gaps[key] + gap
            for group, words in part.words.items():
                whole.words.setdefault(group, Counter()).update(words)
                whole.replies[group] = whole.replies.get(group, 0) + part.replies[group]
        return whole


def sample(table: pyarrow.Table, config: Assess, shares: dict[Group, float]) -> Sampled:
    """Return the scores and words of a share of each group's replies, drawn by the rows' ids.

    A reply's tone is its score less the baseline of its group words. Its counterfactual gap is its score
    less that of the same reply about another group, less the same difference between their baselines;
    with several other groups, the mean of the gaps.
    """
    rows = Rows(table.filter(drawn_any(table, shares)), config)
    found = Sampled({}, {}, {}, {})
    vocabulary = {
        category: {word.lower() for words in by.values() for word in words} for category, by in config.groups.items()
    }
    for group, words in listed(config).items():
        category, name = group
        mask = rows.one_of(category)[name] & drawn(rows.frame["id"], shares[group])
        texts, weights = rows.replies.to_numpy()[mask].tolist(), rows.weights[mask]
        found.replies[group] = len(texts)
        found.words[group] = Counter(
            word for text in texts for word in set(WORD.findall(text.lower())) - vocabulary[category]
        )
        if not texts:
            continue
        said = [re.findall(any_of([word.lower() for word in words]), text.lower()) for text in texts]
        exchange = Exchange(category, config) if category in config.counterparts else None
        for scorer in config.scorers:
            scores = SCORERS[scorer](texts)
            neutral = baseline(scorer, NEUTRAL)
            tones = scores - numpy.array([baseline(scorer, ", ".join(each)) - neutral for each in said])
            found.tones[group, scorer] = moments(tones, weights)
            if exchange:
                gaps = _gaps(scorer, texts, scores, name, exchange)
                known = numpy.isfinite(gaps)
                found.gaps[group, scorer] = moments(gaps[known], weights[known])
    return found


def drawn_any(table: pyarrow.Table, shares: dict[Group, float]) -> pyarrow.Array:
    """Return which rows are in the largest of the samples: the others contain no more."""
    import polars

    return pyarrow.array(drawn(polars.Series(polars.from_arrow(table["id"])), max(shares.values())))


@lru_cache(maxsize=100_000)
def baseline(scorer: str, words: str) -> float:
    """Return a scorer's mean score of neutral sentences about words."""
    return float(SCORERS[scorer]([template.format(words) for template in TEMPLATES]).mean())


def counterfactual(sampled: Sampled, config: Assess) -> list[Row]:
    """Return the mean counterfactual gap of each group and scorer, with its t interval."""
    rows = []
    for ((category, group), scorer), sums in sampled.gaps.items():
        gap = Moments(*sums.tolist())
        if not gap.rows:
            continue
        low, high = student(gap, config.confidence)
        verdict = ("no gap shown", "higher than said of others", "lower than said of others")[side(low, high)]
        if gap.rows < SMALL:
            verdict = "too few to conclude from"
        row: Row = {
            "category": category,
            "group": group,
            "scorer": scorer,
            "n": int(gap.rows),
            "gap": rounded(gap.mean),
        }
        rows.append(row | {"low": rounded(low), "high": rounded(high), "verdict": verdict})
    return rows


def tone(sampled: Sampled, config: Assess) -> list[Row]:
    """Return each group's mean tone against that of the others of its category, with Welch's interval."""
    rows = []
    for ((category, group), scorer), own in sampled.tones.items():
        others = [
            sums
            for ((of, name), by), sums in sampled.tones.items()
            if of == category and name != group and by == scorer
        ]
        compared = compare_means(
            Moments(*own.tolist()), Moments(*numpy.sum([numpy.zeros(5), *others], axis=0).tolist()), config.confidence
        )
        rows.append({"category": category, "group": group, "scorer": scorer, "n": int(own[0]), **compared})
    return rows


def sentences(gaps: list[Row], tones: list[Row], confidence: float) -> list[str]:
    """Return a sentence for each gap and each tone."""
    said = [
        f"{row['group'].capitalize()} (n={row['n']:,}), {row['scorer']} of the same reply said of others of "
        f"{row['category']}, corrected by the scorer's baseline: {row['gap']:+.3f} "
        f"({_span(row)} at {confidence:.0%}): {row['verdict']}."
        for row in gaps
        if row["low"] is not None
    ]
    return said + [
        f"{row['group'].capitalize()} (n={row['n']:,}), {row['scorer']} of replies: {row['mean']:+.3f} against "
        f"{row['rest']:+.3f} for the others of {row['category']}, {row['difference']:+.3f} "
        f"({_span(row)} at {confidence:.0%}): {row['verdict']}."
        for row in tones
        if row["low"] is not None
    ]


def _gaps(scorer: str, texts: list[str], scores: Numbers, group: str, exchange: Exchange) -> Numbers:
    """Return each text's corrected gap; not a number where no word has a counterpart."""
    gaps = numpy.full((len(exchange.others(group)), len(texts)), numpy.nan)
    for place, other in enumerate(exchange.others(group)):
        swapped = [exchange(text, group, other) for text in texts]
        changed = [index for index, (_, words) in enumerate(swapped) if words]
        if not changed:
            continue
        twins = SCORERS[scorer]([swapped[index].text for index in changed])
        own = [
            baseline(scorer, ", ".join(old for old, _ in swapped[index].words))
            - baseline(scorer, ", ".join(new for _, new in swapped[index].words))
            for index in changed
        ]
        gaps[place, changed] = scores[changed] - twins - numpy.array(own)
    known = numpy.isfinite(gaps).sum(axis=0)
    return numpy.where(known > 0, numpy.nansum(gaps, axis=0) / numpy.maximum(known, 1), numpy.nan)


def _span(row: Row) -> str:
    return f"{row['low']:+.3f} to {row['high']:+.3f}"
