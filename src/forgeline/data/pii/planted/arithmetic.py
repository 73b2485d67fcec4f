"""Check digits and templates for planted values, each from the text of its standard."""

from __future__ import annotations

import random
from collections.abc import Sequence

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALPHABETS = {"#": DIGITS, "N": "23456789", "Z": "123456789", "@": LETTERS, "*": DIGITS + LETTERS}


def fill(template: str, chance: random.Random) -> str:
    """Return a template with # as a digit, N as 2-9, Z as 1-9, @ as a capital, * as a capital or a digit."""
    return "".join(chance.choice(ALPHABETS[mark]) if mark in ALPHABETS else mark for mark in template)


def group(text: str, sizes: Sequence[int], gap: str) -> str:
    """Return a text cut into groups of the sizes given, the last size for all that is left."""
    parts, rest = [], text
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    while rest:
        parts.append(rest[: sizes[-1]])
        rest = rest[sizes[-1] :]
    return gap.join(part for part in parts if part)


def luhn_digit(digits: str) -> str:
    """Return the check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return str(-total % 10)


def iban_check(country: str, account: str) -> str:
    """Return the two check digits of ISO 13616 (ISO/IEC 7064 MOD 97-10)."""
    number = "".join(DIGITS[int(c)] if c in DIGITS else str(LETTERS.index(c) + 10) for c in account + country + "00")
    return f"{98 - int(number) % 97:02d}"


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Return the sum of digits times weights."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def mod_11_10(digits: str) -> str:
    """Return the check digit of ISO/IEC 7064 MOD 11,10."""
    product = 10
    for digit in digits:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return str((11 - product) % 10)


def verhoeff_digit(digits: str) -> str:
    """Return the check digit of Verhoeff (1969), in the dihedral group of the pentagon."""

    def times(left: int, right: int) -> int:
        turned = left % 5 + right % 5 if left < 5 else left % 5 - right % 5
        return turned % 5 + (5 if (left < 5) != (right < 5) else 0)

    shuffle = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def permuted(digit: int, rounds: int) -> int:
        for _ in range(rounds % 8):
            digit = shuffle[digit]
        return digit

    check = 0
    for place, digit in enumerate(reversed(digits), start=1):
        check = times(check, permuted(int(digit), place))
    return str(next(digit for digit in range(10) if times(check, digit) == 0))
