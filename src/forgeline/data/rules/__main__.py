"""`python -m forgeline.data.rules`: how well toxicity is told, and what it says of groups, raw and corrected."""

from __future__ import annotations

import hashlib

import numpy
import polars
from numpy.typing import NDArray

from forgeline.data.rules import words
from forgeline.data.rules.toxicity import corpus, train


def area_under_curve(scores: polars.Series, labels: NDArray[numpy.bool_]) -> float:
    """Return the probability that a toxic text scores above a civil one, ties by half (Hanley and McNeil, 1982)."""
    positive, negative = int(labels.sum()), int((~labels).sum())
    ranks = scores.rank("average").to_numpy()[labels].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def main() -> None:
    """Print both classifiers' figures on held-out texts, then each group's mean score in neutral sentences.

    Held out are three texts in sixteen, by digest. The civil ones come from other sources than the toxic
    ones, so part of what tells them apart is where they come from.
    """
    texts, toxic = corpus()
    held = numpy.array([hashlib.sha256(text.encode()).digest()[0] % 16 < 3 for text in texts])
    print(f"{len(texts)} texts, {toxic.sum()} toxic; held out {held.sum()}, of them toxic {(toxic & held).sum()}")
    terms = words.DESCRIPTIONS.split()
    means = []
    for name, corrected in (("raw", False), ("corrected", True)):
        model = train(texts.filter(~held), toxic[~held], corrected)
        score = model.scorer()
        scores, labels = polars.Series(score(texts.filter(held))), toxic[held]
        found, alarms = (float((scores.to_numpy()[mask] >= 0.9).mean()) for mask in (labels, ~labels))
        neutral = [polars.Series([form.format(term) for form in words.TEMPLATES]) for term in terms]
        means.append([float(score(sentences).mean()) for sentences in neutral])
        print(
            f"{name}: AUC {area_under_curve(scores, labels):.3f}; at 0.9 it finds {found:.1%} of the toxic and "
            f"{alarms:.2%} of the civil; largest gap between groups {max(means[-1]) - min(means[-1]):.3f}"
        )
    print("group\traw\tcorrected")
    for term, raw, corrected_ in zip(terms, *means, strict=True):
        print(f"{term}\t{raw:.3f}\t{corrected_:.3f}")


if __name__ == "__main__":
    main()
