"""Personal data and secrets: what the data line's recognisers find, in one text and at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from forgeline.config.schema.data import Pii, PiiKind
from forgeline.config.schema.serve.guards import Secrets
from forgeline.data.pii.finder import Finder
from forgeline.data.pii.secret import entropy
from forgeline.serving.gateway.guards.fold import folded, unfolded
from forgeline.serving.gateway.guards.guard import Finding, Passage
from forgeline.serving.gateway.guards.masks import replaced

LONE = re.compile(r"(?<![\w+/=.-])(?=[A-Za-z+/_-]*[0-9])[A-Za-z0-9+/_-]{32,512}={0,2}(?![\w+/=.-])")
CASES = re.compile(r"[a-z].*[A-Z]|[A-Z].*[a-z]", re.DOTALL)


class PersonalData:
    """Finds personal data, also where format characters or lookalike letters disguise them."""

    def __init__(self, kinds: Sequence[PiiKind], regions: Sequence[str]) -> None:
        self._finder = Finder(Pii(kinds=list(kinds), regions=list(regions)), Path())

    def inspect(self, passage: Passage) -> list[Finding]:
        """Return the personal data of a message."""
        return self.find(passage.text)

    def find(self, text: str) -> list[Finding]:
        """Return the personal data of a text."""
        plain, places = folded(text)
        every: list[Finding] = []
        while found := self._finder.find_in(plain):  # what stands beside a value may be one without it
            every += [Finding(*one) for one in found]
            plain = replaced(plain, [(Finding(*one), f"[{'_' * (one.end - one.start - 2)}]") for one in found])
        return [Finding(kind, *unfolded(places, start, end)) for kind, start, end in _joined(every)]

    def scrubbed(self, text: str) -> str:
        """Return a text with the name of the kind in place of personal data, for good."""
        return replaced(text, [(one, f"[{one.kind.upper()}]") for one in self.find(text)])

    def canonical(self, kind: str, value: str) -> str:
        """Return the one form of all the writings of a value."""
        return self._finder.canonical[kind](folded(value)[0])


def _joined(found: list[Finding]) -> Iterator[tuple[str, int, int]]:
    """Yield findings in order, those that overlap as one."""
    start = end = 0
    name = ""
    for kind, begins, ends in sorted(found, key=lambda one: one.start):
        if begins >= end:
            if name:
                yield name, start, end
            name, start = kind, begins
        end = max(end, ends or 0)
    if name:
        yield name, start, end


class Leak:
    """Finds personal data in a reply that nobody gave the model, in whatever writing."""

    def __init__(self, personal: PersonalData) -> None:
        self._personal = personal

    def inspect(self, passage: Passage) -> Iterable[Finding]:
        """Return the personal data of the reply that are in none of the messages and facts."""
        found = self._personal.find(passage.text)
        if not found:
            return []
        told = passage.told()
        given = {self._value(told, one) for one in self._personal.find(told)}
        return [one for one in found if self._value(passage.text, one) not in given]

    def _value(self, text: str, finding: Finding) -> tuple[str, str]:
        return finding.kind, self._personal.canonical(finding.kind, text[finding.start : finding.end])


class SecretData:
    """Finds keys, tokens, passwords and credentials; and long words that look drawn at random."""

    def __init__(self, rule: Secrets) -> None:
        self._known = PersonalData(("url_credentials", "secret"), ())
        self._entropy = rule.entropy

    def inspect(self, passage: Passage) -> list[Finding]:
        """Return the secrets of a message."""
        found = self._known.find(passage.text)
        lone = [
            Finding("secret", *match.span())
            for match in LONE.finditer(passage.text)
            if CASES.search(match[0])
            and entropy(match[0]) >= self._entropy
            and not any(one.start < match.end() and match.start() < (one.end or 0) for one in found)
        ]
        return sorted([*found, *lone], key=lambda one: one.start) if lone else found
