"""Puts tags, pseudonyms or nothing in place of what was found."""

from __future__ import annotations

import hmac
import os
from collections import Counter
from pathlib import Path

import polars

from forgeline.config.schema import Pii
from forgeline.data.pii.finder import Find, Finder
from forgeline.errors import ConfigError

KEY_BYTES = 16  # a shorter key could be guessed, and with it every pseudonym of a value in a list
LETTERS = 12  # of 26: 56 bits, so among ten million values two share a pseudonym once in 2,000 datasets


class Masker:
    """Replaces personal data in columns of text, as a configuration says.

    A pseudonym is `[EMAIL_qxkzvmwpyrtb]`: letters alone, so that no number is ever seen in it. It is the
    HMAC-SHA256 of kind and canonical value under the key, so equal values have equal pseudonyms wherever
    they stand, and nobody without the key can tell whose they are. The key is read from the environment
    and kept nowhere.

    Raises:
        ConfigError: if the key's variable is unset or too short, or the finder cannot be built.
    """

    def __init__(self, config: Pii, root: Path) -> None:
        self._finder = Finder(config, root)
        self._replace = config.replace
        self._key = os.environ.get(config.key, "").encode() if config.replace == "pseudonym" else b""
        if config.replace == "pseudonym" and len(self._key) < KEY_BYTES:
            state = "too short" if self._key else "not set"
            raise ConfigError(
                f"data.clean.pii.replace is pseudonym, but the environment variable {config.key} is {state}: "
                f"set it to a secret of {KEY_BYTES} bytes or more, and keep it for the next version's pseudonyms."
            )

    def mask(self, texts: polars.Series) -> tuple[polars.Series, Counter[str]]:
        """Return the texts with their personal data replaced, and how many of each kind there were.

        What is left is searched again until nothing is found, so masking twice changes nothing more.
        """
        counts: Counter[str] = Counter()
        masked: dict[int, str] = {}
        rows, current = list(range(len(texts))), texts
        while found := self._finder.find(current):
            renewed = {rows[row]: self._replaced(current[row], finds) for row, finds in found.items()}
            counts.update(find.kind for finds in found.values() for find in finds)
            masked |= renewed
            rows, current = list(renewed), polars.Series(list(renewed.values()), dtype=polars.String)
        if masked:
            texts = texts.clone().scatter(list(masked), list(masked.values()))
        return texts, counts

    def count(self, texts: polars.Series) -> Counter[str]:
        """Return how many finds of each kind stand in the texts; in masked texts there are none."""
        return Counter(find.kind for finds in self._finder.find(texts).values() for find in finds)

    def _replaced(self, text: str, finds: list[Find]) -> str:
        for kind, start, end in reversed(finds):
            text = f"{text[:start]}{self._substitute(kind, text[start:end])}{text[end:]}"
        return text

    def _substitute(self, kind: str, value: str) -> str:
        if self._replace == "remove":
            return ""
        if self._replace == "tag":
            return f"[{kind.upper()}]"
        message = f"{kind}\0{self._finder.canonical[kind](value)}".encode()
        number = int.from_bytes(hmac.digest(self._key, message, "sha256"))
        letters = ""
        for _ in range(LETTERS):
            number, letter = divmod(number, 26)
            letters += chr(ord("a") + letter)
        return f"[{kind.upper()}_{letters}]"
