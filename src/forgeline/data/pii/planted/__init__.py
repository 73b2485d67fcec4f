"""A planted set for the measurement: written from published standards, knowing nothing of the recognisers.

It imports neither their patterns nor the libraries that validate for them; check digits are its own arithmetic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from forgeline.data.pii.planted import ids, negatives, secrets, values

POSITIVES = 320  # spans of each kind
SEED = 2026  # never drawn while the recognisers were written
NEGATIVES = 2400  # sentences without any

FRAMES = {
    "": ["{}", "({})", '"{}"', "{}.", "{},", "it is {}", "here you go: {} ,thanks", "- {}\n- next", "{}; that is all"],
    "email": [
        "mail me at {}",
        "<{}>",
        "mailto:{}",
        "From: Jo Ward <{}>",
        '{{"email": "{}", "age": 41}}',
        "cc {} please",
    ],
    "phone": [
        *("call me on {}", "phone: {}", "their number is {}.", "tel. {}", "you can reach us at {} , anything else?"),
        *("Telephone: {}, open 9-5", "my mobile is {} .", "text {} by 5 pm", "contact number {}", "Tel {} (reception)"),
        "the phone number is {} and the postcode is not known",
    ],
    "card": ["card {}", "charged to {} exp 09/27", "pay with {} please", "card number: {}", "PAN={};CVV=none"],
    "iban": [
        "IBAN {}",
        "transfer to {} by Friday",
        "account {} at the bank",
        "iban: {}",
        "pay to {} AND keep the slip",
    ],
    "ip": [
        *("from {}", "client {} connected", "ping {}", "host={} user=root", "src={},dst=lan", "blocked {}/24"),
        *("{} - - [10/Oct/2026:13:55:36] GET", "nameserver {}", "the address {} is taken"),
    ],
    "national_id": ["{} is on the form", "please note {}", "{}", "He gave {} at the desk.", "| {} |"],
    "url_credentials": ["open {}", "curl {} -o out", "DATABASE_URL={}", "<a href='{}'>", "see {} for more"],
    "birth_date": ["{}", "Patient {}", "{}, female", "She was {} in Leeds", "name: Jo; {}; sex: f"],
    "postcode": ["{}", "we live at {}", "send it to {}", "address: {}", "it is in {} ."],
    "secret": ["{}", "config:\n{}", "use {} for now", "export {}", "please rotate {} today", "`{}`"],
}
ALONE = {"national_id", "birth_date", "postcode", "secret"}  # their values bring the words around them
FILLERS = [
    *("", "", "", "thank you for calling.", "the train leaves at 05:45 and costs 16.50 pounds .", "See page 12."),
    *("i booked it for 3 people.", "Your reference number is 7GAWK763.", "Is there anything else?"),
    "We met on 12 May 2021 at 10:30.",
]


class Sentence(NamedTuple):
    """A text and where its personal data stand, as (kind, start, end)."""

    text: str
    spans: list[tuple[str, int, int]]


Sample = Callable[[random.Random], tuple[str, str, str]]  # what stands before, the value, what stands after


def plant(kinds: Collection[str], regions: Sequence[str], seed: int = SEED) -> Iterator[Sentence]:
    """Yield sentences with personal data of the kinds, in the forms of the regions, then sentences with none.

    Every form of a kind gets as many spans as the others; every fourth sentence carries two.
    """
    chance = random.Random(f"{seed}|{','.join(sorted(regions))}")
    planted = [(kind, _draw(kind, forms, number, chance)) for kind in sorted(kinds) if (forms := _forms(kind, regions))
               for number in range(POSITIVES)]  # fmt: skip
    chance.shuffle(planted)
    while planted:
        taken = [planted.pop() for _ in range(min(len(planted), 2 if chance.random() < 0.25 else 1))]
        yield _compose(taken, chance)
    for number in range(NEGATIVES):
        yield Sentence(_filled(negatives.FORMS[number % len(negatives.FORMS)](chance), chance), [])


def _forms(kind: str, regions: Sequence[str]) -> list[Sample]:
    by_region = {"national_id": ids.NATIONAL_IDS, "postcode": ids.POSTCODES}
    if kind in by_region:
        return [form for region in regions for form in by_region[kind].get(region, [])]
    if kind == "phone":
        return values.phone_forms(regions)
    return secrets.FORMS if kind == "secret" else values.FORMS[kind]


def _draw(kind: str, forms: list[Sample], number: int, chance: random.Random) -> tuple[str, str, str]:
    before, value, after = forms[number % len(forms)](chance)
    frames = FRAMES[kind] if kind in ALONE or chance.random() < 0.7 else [*FRAMES[kind], *FRAMES[""]]
    left, right = chance.choice(frames).replace("{{", "\0").replace("}}", "\1").split("{}")
    braces = str.maketrans("\0\1", "{}")
    return left.translate(braces) + before, value, after + right.translate(braces)


def _compose(taken: list[tuple[str, tuple[str, str, str]]], chance: random.Random) -> Sentence:
    text = _filler(chance, " ")
    spans = []
    for number, (kind, (before, value, after)) in enumerate(taken):
        text += (chance.choice(["; ", "\n", " and then "]) if number else "") + before
        spans.append((kind, len(text), len(text) + len(value)))
        text += value + after
    tail = _filler(chance, "")
    return Sentence(f"{text} {tail}" if tail else text, spans)


def _filled(text: str, chance: random.Random) -> str:
    tail = _filler(chance, "")
    return _filler(chance, " ") + text + (f" {tail}" if tail else "")


def _filler(chance: random.Random, end: str) -> str:
    filler = chance.choice(FILLERS)
    return filler + end if filler else ""
