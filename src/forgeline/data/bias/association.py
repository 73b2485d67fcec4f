"""In whose company words are: shares of word lists, and the words that tell one group's replies from others'."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

from forgeline.config.schema import Assess
from forgeline.data.bias.groups import Group
from forgeline.data.bias.intervals import SMALL, Row, compare_shares, rounded
from forgeline.data.bias.tally import EVERYONE, Tally

PRIOR = 500  # words that the prior counts for
RARE = 5  # a word in fewer replies tells nothing
TOP = 8  # words listed for a group


def association(tally: Tally, config: Assess) -> list[Row]:
    """Return, for each group and word list, the share of replies with such words among its own and elsewhere.

    Differences have Newcombe's hybrid score interval (1998, method 10), each for itself.
    """
    rows = []
    for category, group in tally.groups():
        if category not in config.groups:
            continue
        for name, pair in config.associations.items():
            for side in ("first", "second"):
                one = tally.of((category, group), f"{name}/{side}")
                other = tally.rest((category, group), f"{name}/{side}", EVERYONE)
                row = {"category": category, "group": group, "list": name, "words": side, "n": int(one.rows)}
                compared = compare_shares(one, other, config.confidence)
                rows.append({**row, "example": getattr(pair, side)[0], **compared})
    return rows


def words(counts: dict[Group, Counter[str]], replies: dict[Group, int], config: Assess) -> list[Row]:
    """Return the words that go with each group rather than with the others of its category.

    Log-odds ratios with an informative Dirichlet prior, and their z-scores (Monroe, Colaresi and Quinn,
    2008); the prior are the category's pooled words. A word counts once a reply. Listed are at most `TOP`
    words a group, and of these only what stays beyond doubt after Bonferroni's correction for all words.
    """
    rows = []
    for category in config.groups:
        own = {group: counts[group] for group in counts if group[0] == category}
        pooled = sum(own.values(), Counter[str]())
        known = {word for word, count in pooled.items() if count >= RARE}
        if len(known) < 2:
            continue
        certain = NormalDist().inv_cdf(1 - (1 - config.confidence) / (2 * len(known)))
        z = NormalDist().inv_cdf((1 + config.confidence) / 2)
        for (_, group), mine in own.items():
            if replies[category, group] < SMALL:
                continue
            scored = [(*_log_odds(mine[word], pooled[word], mine.total(), pooled.total()), word) for word in known]
            telling = sorted((-odds / spread, word, odds, spread) for odds, spread, word in scored)
            for minus, word, odds, spread in telling[:TOP]:
                if -minus > certain:
                    row: Row = {"category": category, "group": group, "word": word, "n": mine[word]}
                    figures = {"log_odds": odds, "low": odds - z * spread, "high": odds + z * spread, "z": -minus}
                    rows.append(
                        row | {"elsewhere": pooled[word] - mine[word]} | {k: rounded(v) for k, v in figures.items()}
                    )
    return rows


def sentences(associated: list[Row], telling: list[Row], confidence: float) -> list[str]:
    """Return a sentence for each comparison, and one for each group that has words of its own."""
    said = [_sentence(row, confidence) for row in associated if row["n"]]
    for category, group in dict.fromkeys((row["category"], row["group"]) for row in telling):
        own = [row for row in telling if (row["category"], row["group"]) == (category, group)]
        listed = ", ".join(f"{row['word']} (n={row['n']}, z={row['z']:.1f})" for row in own)
        said.append(f"{group.capitalize()}, words that go with it rather than with the others of {category}: {listed}.")
    return said


def _log_odds(mine: int, pooled: int, total: int, every: int) -> tuple[float, float]:
    """Return a word's log-odds ratio between a group and the others, and its standard error."""
    prior = PRIOR * pooled / every
    other, rest = pooled - mine, every - total
    odds = math.log((mine + prior) / (total + PRIOR - mine - prior))
    odds -= math.log((other + prior) / (rest + PRIOR - other - prior))
    return odds, math.sqrt(1 / (mine + prior) + 1 / (other + prior))


def _sentence(row: Row, confidence: float) -> str:
    about = f"{row['group'].capitalize()} (n={row['n']:,}) with words like {row['example']} ({row['list']})"
    if row["difference"] is None:
        return f"{about}: {row['verdict']}."
    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    verdict = f"{row['verdict']} often than elsewhere" if row["verdict"] in {"more", "less"} else row["verdict"]
    return (
        f"{about}: {row['share']:.1%} of replies against {row['rest']:.1%} elsewhere, {difference:+.1f} points "
        f"({low:+.1f} to {high:+.1f} at {confidence:.0%}): {verdict}."
    )
