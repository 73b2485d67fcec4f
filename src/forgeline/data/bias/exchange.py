"""A text about one group, said of another: the counterfactual that measures and augmentation share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from forgeline.config.schema import Assess
from forgeline.data.bias.gender import EnglishGender, Exchanged, like

OPEN = re.compile(r"(?!eu|uni|use|one)[aeiou]", re.IGNORECASE)  # begins with the sound of a vowel


class Exchange:
    """The exchange of the groups of a category of `assess.counterparts`, two at a time.

    Two groups change places, so that exchanging twice gives the first text again.
    """

    def __init__(self, category: str, config: Assess) -> None:
        self.groups = list(config.groups[category])
        counterparts = config.counterparts[category]
        if counterparts == "english_gender":
            self.gender: EnglishGender | None = EnglishGender(config.names)
            words = [*self.gender.words, *self.gender.names]
        else:
            self.gender = None
            self.pairs = {
                (one, other): _both_ways(
                    [(row[one], row[other]) for row in counterparts if one in row and other in row]
                )
                for one in self.groups
                for other in self.groups
                if one != other
            }
            words = [word.lower() for row in counterparts for word in row.values()]
        self.pattern = any_of(words)  # matches every lower-case text that may change

    def others(self, group: str) -> Sequence[str]:
        """Return the groups that a group is exchanged with."""
        return [other for other in self.groups if other != group]

    def __call__(self, text: str, one: str, other: str) -> Exchanged:
        """Return a text with two groups exchanged; capitals stay as they are, and `a` or `an` fits what follows."""
        if self.gender:
            return self.gender.exchange(text)
        counterparts = self.pairs[one, other]
        words: list[tuple[str, str]] = []

        def exchanged(match: re.Match[str]) -> str:
            article, word = match["article"], match["word"]
            words.append((word.lower(), counterparts[word.lower()]))
            new = like(word, words[-1][1])
            if not article:
                return new
            return f"{like(article, 'an' if OPEN.match(new) else 'a')} {new}"

        pattern = rf"(?:\b(?P<article>an?) )?(?P<word>{any_of(counterparts)})"
        return Exchanged(re.sub(pattern, exchanged, text, flags=re.IGNORECASE) if counterparts else text, words)


def any_of(words: Sequence[str] | dict[str, str]) -> str:
    """Return the pattern of any of some words, as a whole word; the longest first."""
    return rf"\b(?:{'|'.join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))})\b"


def _both_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {first.lower(): second for one, other in pairs for first, second in ((one, other), (other, one))}
