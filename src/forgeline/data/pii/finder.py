"""Finds personal data in columns of text: gates in Rust over every row, exact searches over the rows they leave."""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars
from phonenumbers import SUPPORTED_REGIONS

from forgeline.config.schema import Pii
from forgeline.data.pii.contact import email
from forgeline.data.pii.custom import read_recognisers
from forgeline.data.pii.finance import card, iban
from forgeline.data.pii.identity import NATIONAL_IDS, POSTCODES, birth_date, national_id, postcode
from forgeline.data.pii.network import ip, url_credentials
from forgeline.data.pii.phone import phone
from forgeline.data.pii.recogniser import Recogniser, Span
from forgeline.data.pii.secret import secret
from forgeline.errors import ConfigError

# The more specific kind comes first and wins an overlap.
KINDS: dict[str, Callable[[Sequence[str]], list[Recogniser]]] = {
    "url_credentials": lambda _: url_credentials(),
    "secret": lambda _: secret(),
    "email": lambda _: email(),
    "iban": lambda _: iban(),
    "national_id": national_id,
    "card": lambda _: card(),
    "ip": lambda _: ip(),
    "birth_date": lambda _: birth_date(),
    "phone": phone,
    "postcode": postcode,
}


LOOKING_BEHIND = {
    "national_id",
    "postcode",
    "birth_date",
}  # Python takes longer for these searches than for their gates
Column = tuple[polars.Series, polars.Series]  # numbers of rows, and their texts


class Find(NamedTuple):
    """Where a piece of personal data stands in a text."""

    kind: str
    start: int
    end: int


def not_covered(config: Pii) -> dict[str, list[str]]:
    """Return the regions of each regional kind whose forms no recogniser knows."""
    known: dict[str, Collection[str]] = {"national_id": NATIONAL_IDS, "postcode": POSTCODES}
    return {
        kind: missing
        for kind, forms in known.items()
        if kind in config.kinds and (missing := [region for region in config.regions if region not in forms])
    }


class Finder:
    """The recognisers that a configuration asks for: one's own first, then the built-in, then people's names.

    Raises:
        ConfigError: for a region without a phone plan, a recogniser file with a fault, or names without their packages.
    """

    def __init__(self, config: Pii, root: Path) -> None:
        known = frozenset(SUPPORTED_REGIONS)
        if unknown := [region for region in config.regions if region not in known]:
            raise ConfigError(
                f"data.clean.pii.regions: {', '.join(unknown)} is no region of ISO 3166 with phones: "
                "write GB, US, DE and so on."
            )
        own = read_recognisers(root / config.recognisers) if config.recognisers else []
        built_in = [one for kind, make in KINDS.items() if kind in config.kinds for one in make(config.regions)]
        self.recognisers: dict[str, list[Recogniser]] = defaultdict(list)
        for one in [*own, *built_in]:
            self.recognisers[one.kind].append(one)
        self.canonical = {kind: forms[0].canonical for kind, forms in self.recognisers.items()}
        self._forms = [
            (one, [re.compile(gate) for gate in one.gates] if kind in LOOKING_BEHIND else [])
            for kind, group in self.recognisers.items()
            for one in group
        ]
        self._people = None
        if config.names:
            from forgeline.data.pii import names

            self._people = names.people()
            self.canonical["person"] = names.canonical
        kinds = "|".join(kind.upper() for kind in self.canonical)
        self._tag = re.compile(rf"\[(?:{kinds})(?:_[a-z]+|_[0-9]+)?\]") if kinds else None

    def find(self, texts: polars.Series) -> dict[int, list[Find]]:
        """Return what stands in the texts, in order, by the number of the row; rows without any are left out."""
        found: dict[int, list[Find]] = defaultdict(list)
        read: dict[int, str] = {}
        forms = [one for group in self.recognisers.values() for one in group]
        numbered = polars.int_range(len(texts), eager=True), texts
        suspects = _passing(numbered, [_either(forms)]) if forms else numbered
        for kind, group in self.recognisers.items():
            nearer = _passing(suspects, [_either(group)]) if len(group) > 1 else suspects
            for one in group:
                for row, text in zip(*_passing(nearer, one.gates), strict=True):
                    if finds := [Find(kind, *span) for span in one.find(text)]:
                        found[row] += finds
                        read[row] = text
        if self._people:
            for row, text, spans in self._people.find(texts):
                found[row] += [Find("person", *span) for span in spans]
                read[row] = text
        settled = ((row, self._settle(read[row], found[row])) for row in sorted(found))
        return {row: finds for row, finds in settled if finds}

    def find_in(self, text: str) -> list[Find]:
        """Return what `find` returns of one text, in a tenth of the time for a short one; people's names left out."""
        found = [Find(one.kind, *span) for one, gates in self._forms for span in _found(one, gates, text)]
        return self._settle(text, found) if found else []

    def _settle(self, text: str, finds: list[Find]) -> list[Find]:
        """Return the finds in order, less those that overlap an earlier recogniser's, or a tag that stands already."""
        tags = [match.span() for match in self._tag.finditer(text)] if self._tag and "[" in text else []
        starts, ends = [start for start, _ in tags], [end for _, end in tags]  # of what is taken, in order
        kept = []
        for find in finds:
            place = bisect(starts, find.start)
            clear_behind = place == 0 or ends[place - 1] <= find.start
            if clear_behind and (place == len(starts) or find.end <= starts[place]):
                starts.insert(place, find.start)
                ends.insert(place, find.end)
                kept.append(find)
        return sorted(kept, key=lambda find: find.start)


def _found(one: Recogniser, gates: Iterable[re.Pattern[str]], text: str) -> Iterable[Span]:
    return one.find(text) if all(gate.search(text) for gate in gates) else ()


def _either(forms: list[Recogniser]) -> str:
    return "|".join(f"(?:{one.gates[0]})" for one in forms)


def _passing(column: Column, gates: Sequence[str]) -> Column:
    """Return the numbered rows whose texts match every gate; an empty text never does."""
    rows, texts = column
    for gate in gates:
        passed = texts.str.contains(gate).fill_null(False)
        rows, texts = rows.filter(passed), texts.filter(passed)
    return rows, texts
