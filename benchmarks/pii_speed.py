"""Speed of the recognisers of personal data, in MB of text per second of one core.

Command: POLARS_MAX_THREADS=1 python benchmarks/pii_speed.py
The text is made of words, 290 bytes a row; where rows hold personal data, one in ten does: e-mail addresses
and phones alone, or all the shipped kinds in equal parts, in the forms of the planted set.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import polars

from forgeline.config.schema import Pii, PiiKind
from forgeline.data.pii import Masker
from forgeline.data.pii.planted import plant

ROWS = 100_000
WORDS = (
    "the of hotel train reply customer thank you for calling please booking restaurant i would like to know price area"
    " and centre of town which leaves on monday from cambridge it is a guest house with free wifi parking great"
)


def main() -> None:
    """Print the speed over clean text, hard negatives, and text with personal data."""
    chance = random.Random(1)
    shipped = Pii()
    masker = Masker(shipped, Path())
    clean = [" ".join(chance.choices(WORDS.split(), k=chance.randint(20, 80))) for _ in range(ROWS)]
    usual: list[PiiKind] = ["email", "phone"]
    personal = [one.text for one in plant(shipped.kinds, shipped.regions) if one.spans]
    contacts = [one.text for one in plant(usual, shipped.regions) if one.spans]
    harmless = [one.text for one in plant([], shipped.regions)]
    texts = {
        "nothing personal": clean,
        "hard negatives in a tenth": _sprinkled(clean, harmless, chance),
        "e-mail and phones in a tenth": _sprinkled(clean, contacts, chance),
        "all shipped kinds in a tenth": _sprinkled(clean, personal, chance),
    }
    masker.mask(polars.Series(personal))
    for name, rows in texts.items():
        column = polars.Series(rows)
        seconds = min(_seconds(masker, column) for _ in range(3))
        print(f"{name}: {column.str.len_bytes().sum() / 1e6 / seconds:.0f} MB/s")


def _sprinkled(rows: list[str], extra: list[str], chance: random.Random) -> list[str]:
    return [f"{row} {chance.choice(extra)}" if number % 10 == 0 else row for number, row in enumerate(rows)]


def _seconds(masker: Masker, column: polars.Series) -> float:
    started = time.process_time()
    masker.mask(column)
    return time.process_time() - started


if __name__ == "__main__":
    main()
