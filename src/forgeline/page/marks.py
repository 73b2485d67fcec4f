"""The differences of two texts, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from forgeline.page.blocks import Mark, Marked

WORD = re.compile(r"(\s*)(\w+(?:[.:'’-]\w+)*|[^\w\s])")


def compare(text: str, other: str) -> Marked:
    """Return a text with the words marked that `other` does not have, and those of `other` that it lacks."""
    mine, theirs = WORD.findall(text), WORD.findall(other)
    matcher = SequenceMatcher(None, _words(theirs), _words(mine), autojunk=False)
    parts: list[tuple[Mark, str]] = []
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            _add(parts, "same", mine[k:m])
        else:
            _add(parts, "removed", theirs[i:j])
            _add(parts, "added", mine[k:m])
    return Marked(parts)


def likeness(text: str, other: str) -> float:
    """Return how much two texts share, 0 to 1: twice the words in common over all words."""
    return SequenceMatcher(None, _words(WORD.findall(text)), _words(WORD.findall(other)), autojunk=False).ratio()


def _words(found: list[tuple[str, str]]) -> list[str]:
    return [word for _, word in found]


def _add(parts: list[tuple[Mark, str]], mark: Mark, found: list[tuple[str, str]]) -> None:
    """Append a stretch of words; two words that did not follow each other are kept apart."""
    if not found:
        return
    text = "".join(space + word for space, word in found)
    apart = parts and parts[-1][1][-1].isalnum() and text[0].isalnum()
    parts.append((mark, f" {text}" if apart else text))
