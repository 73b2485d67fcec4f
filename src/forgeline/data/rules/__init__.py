"""What is measured of a text, and which rows the rules of `data.clean.rules` send to quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy
import polars
from numpy.typing import NDArray

from forgeline.config.schema import Rule
from forgeline.data.rules import kernels
from forgeline.data.rules.language import language_probability
from forgeline.data.rules.toxicity import profane_words, toxicity_scores
from forgeline.errors import ConfigError

__all__ = ["Verdicts", "check", "failing", "measure", "toxicity_scores"]

LETTERS = 20  # below which no language is told


class Verdicts(NamedTuple):
    """For each row the first rule that it fails, what it measured, and the measure; null where it fails none.

    `dry` counts, for each dry rule, the rows that it would have removed.
    """

    rule: polars.Series
    detail: polars.Series
    score: polars.Series
    dry: dict[str, int]


def failing(
    rules: Mapping[str, Rule],
    completion: polars.Series,
    prompt: polars.Series,
    conversation: polars.Series,
    identities: Iterable[str] = (),
) -> Verdicts:
    """Judge rows by the rules in their order; what one removes, the later ones do not look at.

    `identities` are names of groups to which the toxicity measure is blind, beside its own list.
    """
    texts = {"completion": completion, "prompt": prompt, "conversation": conversation}
    names: list[str | None] = [None] * len(completion)
    details: list[str | None] = [None] * len(completion)
    scores: list[float | None] = [None] * len(completion)
    dry: dict[str, int] = {}
    alive = numpy.arange(len(completion))
    for name, rule in rules.items():
        measured = texts[rule.over] if len(alive) == len(completion) else texts[rule.over].gather(alive)
        values = measure(rule, measured, identities)
        outside = _outside(rule, values.to_numpy())
        if rule.dry_run:
            dry[name] = int(outside.sum())
            continue
        for position in numpy.flatnonzero(outside):
            row, value = int(alive[position]), float(values[int(position)])
            names[row], scores[row] = name, value
            details[row] = _detail(rule, value, measured[int(position)])
        alive = alive[~outside]
    return Verdicts(
        polars.Series("rule", names, dtype=polars.String),
        polars.Series("detail", details, dtype=polars.String),
        polars.Series("score", scores, dtype=polars.Float64),
        dry,
    )


def measure(rule: Rule, texts: polars.Series, identities: Iterable[str] = ()) -> polars.Series:
    """Return a rule's measure of each text, as numbers of 64 bits; a null text counts as empty.

    Shares are of 0 for a text that has nothing to take a share of. The repetition of word 3-grams is one
    of the signs of poor text in Rae et al. (2021).

    Raises:
        ConfigError: for a pattern that cannot be read, or a language that is not known.
    """
    texts = texts.fill_null("")
    match rule.measure:
        case "pattern":
            return _matches(texts, rule.pattern or "")
        case "language":
            return _in_language(texts, rule.languages or [])
        case "profanity" | "toxicity":
            return profane_words(texts) if rule.measure == "profanity" else toxicity_scores(texts, True, identities)
        case "repeated_words" | "repeated_lines":
            return polars.Series(
                rule.measure, kernels.repeated(*kernels.bytes_of(texts), rule.measure == "repeated_lines")
            )
        case "chars":
            return texts.str.len_chars().cast(polars.Float64)
    counts = _counts(texts).T.astype(numpy.float64)
    chars, words, letters, capitals = counts[[kernels.CHARS, kernels.WORDS, kernels.LETTERS, kernels.CAPITALS]]
    share = {
        "words": (words, numpy.ones_like(words)),
        "word_chars": (chars - counts[kernels.SPACES], words),
        "symbols": (counts[kernels.SYMBOLS], chars),
        "digits": (counts[kernels.DIGITS], chars),
        "capitals": (capitals, letters),
    }[rule.measure]
    return polars.Series(rule.measure, share[0] / numpy.maximum(share[1], 1))


def check(rules: Mapping[str, Rule]) -> None:
    """Make ready what the rules measure with, before the first row.

    Raises:
        ConfigError: listing the rules whose measure cannot be taken.
        SourceError: if the toxicity measure's training texts are not to be had.
    """
    faults = []
    for name, rule in rules.items():
        try:
            measure(rule, polars.Series([""]))
            if rule.languages:
                language_probability(polars.Series([], dtype=polars.String), rule.languages)
        except ConfigError as fault:
            faults.append(f"data.clean.rules.{name}: {fault}")
    if faults:
        raise ConfigError("\n".join(faults))


def _counts(texts: polars.Series) -> kernels.Offsets:
    counts: kernels.Offsets = kernels.count(*kernels.bytes_of(texts), kernels.classes())
    return counts


def _in_language(texts: polars.Series, languages: Sequence[str]) -> polars.Series:
    values = numpy.ones(len(texts))
    long = numpy.flatnonzero(_counts(texts)[:, kernels.LETTERS] >= LETTERS)
    values[long] = language_probability(texts.gather(long), languages).to_numpy()
    return polars.Series("language", values)


def _matches(texts: polars.Series, pattern: str) -> polars.Series:
    try:
        return texts.str.count_matches(pattern).cast(polars.Float64)
    except polars.exceptions.ComputeError as fault:
        reason = str(fault).strip().splitlines()[-1]
        raise ConfigError(f"{pattern!r} is not a regular expression as Rust understands them ({reason}).") from None


def _outside(rule: Rule, values: kernels.Floats) -> NDArray[numpy.bool_]:
    low = -numpy.inf if rule.min is None else rule.min
    high = numpy.inf if rule.max is None else rule.max
    return (values < low) | (values > high)


def _detail(rule: Rule, value: float, text: str) -> str:
    bound = f"below {rule.min:g}" if rule.min is not None and value < rule.min else f"above {rule.max:g}"
    found = polars.Series([text]).str.extract(f"({rule.pattern})")[0] if rule.measure == "pattern" else None
    what = f": {found[:80]!r}" if found else ""
    return f"{rule.measure} {value:.4g}, {bound}{what}"
