"""One form for the many that look alike: what is hidden or disguised in a text is looked for in its folded form."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# Letters that read as Latin ones (a part of the confusables of Unicode's UTS #39).
LOOKALIKES = str.maketrans(
    "аесорухіјѕһԁԛԝвкмнтАЕСОРУХІЈЅНВКМТαεορυιντκχΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡ",
    "aecopyxijshdqwbkmhtAECOPYXIJSHBKMTaeopuivtkxABEZHIKMNOPTYXig",
)


def folded(text: str) -> tuple[str, Sequence[int]]:
    """Return a text without what cannot be seen, in plain letters (NFKC, lookalikes), and where each letter stood.

    The positions have one more entry, the end of the text.
    """
    if text.isascii():
        return text, range(len(text) + 1)
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in character if character.isascii() else _plain(character):
            letters.append(letter)
            places.append(place)
    places.append(len(text))
    return "".join(letters), places


def unfolded(places: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Return the span of the text that a span of its folded form stands for."""
    return places[start], places[end - 1] + 1


@lru_cache(4096)
def _plain(character: str) -> str:
    """Return a character as it is folded: nothing for format characters and for the joiners between letters."""
    if unicodedata.category(character) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", character).translate(LOOKALIKES)
