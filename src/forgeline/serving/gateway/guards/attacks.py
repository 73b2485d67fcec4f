"""Sentences that attack a model's instructions, and decoys that only look it, for learning to tell them apart.

Authored for this project, in English. The held-out ones were written once the classifier and its threshold were
settled: who changes either with an eye on them writes new ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).with_name("sentences")
SLOT = re.compile(r"\{([^{}]*)\}")


def sentences(name: str) -> list[str]:
    """Return the lines of `attacks`, `decoys`, `attacks_held_out` or `decoys_held_out`; the first two are templates."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def written(name: str, number: int, seed: int) -> Iterator[str]:
    """Yield so many sentences, of each template as many, with {a|b} filled by chance; the same for the same seed."""
    chance = random.Random(seed)
    templates = sentences(name)
    for place in range(number):
        text = templates[place % len(templates)]
        while SLOT.search(text):
            text = SLOT.sub(lambda match: chance.choice(match[1].split("|")), text)
        yield text if chance.random() < 0.5 else text[:1].upper() + text[1:]
