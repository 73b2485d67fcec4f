"""Payment cards (ISO/IEC 7812) and bank accounts (ISO 13616)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from stdnum import iban as bank
from stdnum import luhn, numdb

from forgeline.data.pii.recogniser import NEAR, Recogniser, Span

CARD = r"[0-9](?:[ -]?[0-9]){11,18}"
CARDS = re.compile(r"[0-9](?<![\w+][0-9])(?<!\d[.,:/-][0-9])(?<!\w-[0-9])(?:[ -]?[0-9]){11,18}(?!\w|[.,:/-]\d)")
ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}"  # Discover
    r"|3(?:0[0-5]|[689]\d)\d{11,13}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}|220[0-4]\d{12,15}"  # JCB, UnionPay, Mir
    r"|(?:50\d\d|5[6-8]\d\d|6304|6759|676[1-3])\d{8,15}"  # Maestro
)
LAYOUTS = re.compile(r"\d+|\d{4}(?:([ -])\d{4}){2}\1\d{3,4}(?:\1\d{1,3})?|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{6}[ -]\d{13}")
GOODS = re.compile(
    r"(?i)\b(?:ean|gtin|upc|barcode|imei|tracking|isbn(?:-13)?|epoch|timestamp)\W{0,3}(?:(?:no|number)\W{1,3})?$"
)


def card() -> list[Recogniser]:
    """Return the recogniser of card numbers: an issuer's range, the check digit, and a usual grouping."""

    def find(text: str) -> Iterator[Span]:
        for match in CARDS.finditer(text):
            start = match.start()
            ends = [match.end(), *(start + gap.start() for gap in reversed(list(re.finditer("[ -]", match[0]))))]
            for end in ends:  # a shorter one: what follows may be the security code
                piece = text[start:end]
                digits = piece.replace(" ", "").replace("-", "")
                if ISSUERS.fullmatch(digits) and LAYOUTS.fullmatch(piece) and luhn.is_valid(digits):
                    if not GOODS.search(text, max(0, start - NEAR), start):
                        yield start, end
                    break

    return [Recogniser("card", (CARD,), find)]


# Its check digits first: Python looks for a digit faster than for a letter, of which a text has more.
IBAN = re.compile(r"[0-9](?<=[A-Za-z]{2}.)(?<![A-Za-z0-9][A-Za-z]{2}.)[0-9](?=[ -]?[A-Za-z0-9]{4})")
CHARACTER = re.compile(r"[ -]?[A-Za-z0-9]")


@cache
def _length(country: str) -> int:
    """Return how many characters the country's account numbers have, or 0 if it has none."""
    structure = numdb.get("iban").info(country)[0][1].get("bban", "")
    return 4 + sum(map(int, re.findall(r"(\d+)!", structure))) if structure else 0


def iban() -> list[Recogniser]:
    """Return the recogniser of account numbers: the country's length and structure, and the check digits."""

    def find(text: str) -> Iterator[Span]:
        for match in IBAN.finditer(text):
            start, end = match.start() - 2, match.end()
            length = _length(text[start : start + 2].upper())
            for _ in range(length - 4):
                if not (character := CHARACTER.match(text, end)):
                    break
                end = character.end()
            else:
                number = text[start:end].replace(" ", "").replace("-", "").upper()
                if length and not text[end : end + 1].isalnum() and bank.is_valid(number, check_country=False):
                    yield start, end

    return [Recogniser("iban", (r"[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]{4}",), find)]
