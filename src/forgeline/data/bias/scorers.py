"""What texts are scored by; anything of the same form can take a scorer's place."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy
from numpy.typing import NDArray

Scorer = Callable[[list[str]], NDArray[numpy.float64]]


def sentiment(texts: list[str]) -> NDArray[numpy.float64]:
    """Return VADER's compound score (Hutto and Gilbert, 2014) of each text: −1 is negative, 1 positive."""
    analyzer = _vader()
    return numpy.array([analyzer.polarity_scores(text)["compound"] for text in texts], numpy.float64)


def toxicity(texts: list[str]) -> NDArray[numpy.float64]:
    """Return the probability that each text is toxic, as the classifier gives it."""
    from forgeline.data.rules import toxicity_scores

    return numpy.asarray(toxicity_scores(texts, corrected=False), numpy.float64)


SCORERS: dict[str, Scorer] = {"sentiment": sentiment, "toxicity": toxicity}


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
