"""What is planted in a corpus: edits, restyled copies, garbage, personal data and its look-alikes.

Forms of personal data follow the published standards: RFC 5321 addresses, the North American, British,
German and French numbering plans, ISO/IEC 7812 card numbers, the SWIFT registry's IBAN layouts, RFC 791
and RFC 4291 addresses. Nothing here knows the patterns of the chains under test.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import string

Spans = tuple[tuple[str, int, int], ...]


def edit(chance: random.Random, text: str, vocabulary: list[str]) -> tuple[str, float]:
    """Return a text with 3 to 10 % of its words edited, and the share edited."""
    words = text.split(" ")
    count = max(math.ceil(0.03 * len(words)), int(chance.uniform(0.03, 0.1) * len(words)))
    for place in sorted(chance.sample(range(len(words)), count), reverse=True):
        word = words[place]
        match chance.randrange(4):
            case 0:
                words[place] = chance.choice(vocabulary)
            case 1:
                words.insert(place, chance.choice(vocabulary))
            case 2:
                del words[place]
            case 3 if len(word) > 3:  # two letters swapped
                cut = chance.randrange(1, len(word) - 2)
                words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
            case _:
                words[place] = chance.choice(vocabulary)
    return " ".join(words), count / len(text.split(" "))


WIDE = {code: code + 0xFEE0 for code in map(ord, string.ascii_letters)}
STYLES = (
    str.upper,
    str.lower,
    lambda text: text.replace(", ", " ").replace(". ", "! "),
    lambda text: text.replace(" ", "  ").replace(".  ", ".\n"),
    lambda text: "  " + text.replace(" the ", "\tthe\u00a0") + " \n",
    lambda text: " ".join(
        word.translate(WIDE) if number % 5 == 0 else word for number, word in enumerate(text.split(" "))
    ),
    lambda text: text.replace("'", "\u2019").replace(' "', " \u201c").replace('"', "\u201d"),
)


def restyle(chance: random.Random, text: str) -> str:
    """Return a text with the same words in one or two other styles, and now and then in a broken encoding."""
    styled = text
    for style in chance.sample(STYLES, 2):
        styled = style(styled)
    if chance.random() < 0.2:
        with contextlib.suppress(UnicodeDecodeError):  # UTF-8 read as Windows-1252
            styled = text.replace("'", "\u2019").encode().decode("cp1252")
    return styled if styled != text else text.upper()


MENU = [
    "Home", "Products", "Services", "Pricing", "Blog", "Contact", "Careers", "Login", "Register", "Sitemap",
    "Newsletter", "Terms", "Privacy", "Cookies", "Gallery", "Events", "Archive", "Forum", "Support", "Documentation",
    "Partners", "Press", "Investors", "Store locator", "Gift cards", "Track order", "Returns", "Size guide",
    "Downloads", "Wish list",
    "Basket", "Checkout", "Facebook", "Twitter", "Instagram", "YouTube", "RSS", "Print", "Share", "Next page",
]  # fmt: skip
SOUP = "#$%^&*~|<>{}[]=+-_/\\!?;:.,'\"`"


def garbage(chance: random.Random) -> str:
    """Return a text that no one wants: symbols, a phrase over and over, a scrap, a mashed keyboard, a page's menu."""
    length = chance.randrange(200, 900)
    match chance.randrange(5):
        case 0:
            signs = chance.choices(SOUP + " 0123456789abcxyz", weights=[6] * len(SOUP) + [20] + [2] * 16, k=length)
            return "".join(signs).strip() or SOUP
        case 1:
            phrase = " ".join(_name(chance).lower() for _ in range(chance.randrange(2, 7)))
            return (phrase + " ") * (length // len(phrase)) + phrase
        case 2:
            return " ".join(chance.sample(MENU, chance.randrange(1, 4))).lower()
        case 3:
            rows = ("asdfghjkl", "qwertyuiop", "zxcvbnm")
            words = [
                "".join(chance.choices(chance.choice(rows), k=chance.randrange(3, 12))) for _ in range(length // 8)
            ]
            return " ".join(words)
        case _:
            mark = chance.choice(("- ", "• ", "* ", ""))
            entries = chance.sample(MENU, chance.randrange(20, 40))
            return "\n".join(mark + entry for entry in entries) if mark else " | ".join(entries)


def insert(chance: random.Random, text: str, sentence: str, kind: str, value: str) -> tuple[str, Spans]:
    """Return a text with a sentence put between two of its own, and where the sentence's value lies."""
    places = [match.end() for match in re.finditer(r"[.!?] ", text)]
    place = chance.choice([0, *places])
    start = place + sentence.index(value)
    return f"{text[:place]}{sentence} {text[place:]}", ((kind, start, start + len(value)),)


PERSONAL = {
    "email": (
        "You can write to {} at any time.",
        "Send the form to {}, please.",
        "My address is {} (work).",
        "Questions: {}",
    ),
    "phone": (
        "Call me on {} after six.",
        "The office can be reached at {}.",
        "Phone: {}",
        "She left the number {}, twice.",
    ),
    "card": ("I paid with card {} last week.", "Please charge {} for both nights.", "Card number: {}"),
    "iban": ("Transfer the deposit to {} by Friday.", "The account is {}.", "IBAN: {}"),
    "ip": ("The request came from {} at night.", "Blocked address: {}", "The log shows {}, again and again."),
}


def personal(chance: random.Random) -> tuple[str, str, str]:
    """Return a sentence with one piece of personal data, its kind, and its text."""
    kind = chance.choice(list(PERSONAL))
    value = {"email": _email, "phone": _phone, "card": _card, "iban": _iban, "ip": _ip}[kind](chance)
    return chance.choice(PERSONAL[kind]).format(value), kind, value


def decoy(chance: random.Random) -> tuple[str, str, str]:
    """Return a sentence with what only looks like personal data, its kind, and its text."""
    card, iban = _card(chance), _iban(chance).replace(" ", "")
    spoilt = card[:-1] + str((int(card[-1]) + chance.randrange(1, 10)) % 10)  # the check digit is wrong
    check = (int(iban[2:4]) + chance.randrange(1, 90)) % 97 + 2
    year, month, day = chance.randrange(1950, 2030), chance.randrange(1, 13), chance.randrange(1, 29)
    sentence, value = chance.choice(
        [
            ("The order {} was sent back.", spoilt),
            ("Quote the reference {} in your reply.", f"{iban[:2]}{check:02d}{iban[4:]}"),
            ("Version {} fixed it.", f"{chance.randrange(10)}.{chance.randrange(30)}.{chance.randrange(100)}"),
            ("They met on {} in the hall.", f"{year}-{month:02d}-{day:02d}"),
            ("The train left at {} sharp.", f"{chance.randrange(24):02d}:{chance.randrange(60):02d}"),
            ("It cost {} in all.", f"${chance.randrange(1, 900)},{_digits(chance, 3)}.{_digits(chance, 2)}"),
            ("Follow the club at {} for news.", f"@{_name(chance).lower()}{_name(chance).lower()}"),
            (
                "See sections {} of the act.",
                f"{chance.randrange(300, 900)}.{_digits(chance, 3)}.{_digits(chance, 3)}.4",
            ),
            ("The population was {} then.", f"{chance.randrange(1, 90)},{_digits(chance, 3)},{_digits(chance, 3)}"),
        ]
    )
    return sentence.format(value), "decoy", value


SYLLABLES = ("ka", "lo", "mi", "ren", "tor", "vas", "bel", "din", "har", "son", "ley", "wick", "mar", "ost", "eri")
DOMAINS = ("brightwater", "northgate-clinic", "harbour7", "oldmill", "veritas-law", "greenleaf", "studio.marlow")
ENDINGS = ("com", "org", "net", "co.uk", "de", "fr", "io", "edu", "info", "travel")


def _name(chance: random.Random) -> str:
    return "".join(chance.choices(SYLLABLES, k=chance.randrange(2, 4))).capitalize()


def _digits(chance: random.Random, count: int) -> str:
    return "".join(chance.choices(string.digits, k=count))


def _email(chance: random.Random) -> str:
    first, last = _name(chance).lower(), _name(chance).lower()
    local = chance.choice(
        [f"{first}.{last}", f"{first}_{last}", f"{first[0]}{last}", f"{first}+{last}", f"{first}{_digits(chance, 2)}"]
    )
    address = f"{local}@{chance.choice(DOMAINS)}.{chance.choice(ENDINGS)}"
    return chance.choice([address, address, address.title()])


def _phone(chance: random.Random) -> str:
    match chance.randrange(5):
        case 0:
            area = chance.choice(("212", "415", "617", "312", "206", "305", "713", "202"))
            middle, last = f"{chance.randrange(2, 10)}{chance.randrange(20, 100)}", _digits(chance, 4)
            forms = ("({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "+1-{}-{}-{}", "+1 ({}) {}-{}")
            return chance.choice(forms).format(area, middle, last)
        case 1:
            first, last = chance.choice(("77", "78", "79", "75")) + _digits(chance, 2), _digits(chance, 6)
            return chance.choice(("0{} {}", "+44 {} {}", "+44{}{}", "0{}{}")).format(first, last)
        case 2:
            first, last = chance.choice("78") + _digits(chance, 3), _digits(chance, 4)
            return chance.choice(("020 {} {}", "+44 20 {} {}", "+44 (0)20 {} {}")).format(first, last)
        case 3:
            number = str(chance.randrange(2, 10)) + _digits(chance, 7)
            return chance.choice(("+49 30 {}", "+4930{}")).format(number)
        case _:
            pairs = [chance.choice("167")] + [_digits(chance, 2) for _ in range(4)]
            return "+33 " + " ".join(pairs) if chance.random() < 0.5 else "+33" + "".join(pairs)


def _card(chance: random.Random) -> str:
    start, length = chance.choice((("4", 16), (f"5{chance.randrange(1, 6)}", 16), ("6011", 16), ("37", 15)))
    body = start + _digits(chance, length - len(start) - 1)
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body))]
    number = body + str(-sum(value // 10 + value % 10 for value in doubled) % 10)
    cuts = (4, 10, 15) if length == 15 else (4, 8, 12, 16)
    groups = [number[start:end] for start, end in zip((0, *cuts), cuts, strict=False)]
    return chance.choice(("", " ", "-")).join(groups)


def _iban(chance: random.Random) -> str:
    bank, wide = "".join(chance.choices(string.ascii_uppercase, k=4)), string.ascii_uppercase + string.digits
    country, body = chance.choice(
        (
            ("GB", bank + _digits(chance, 14)),
            ("DE", _digits(chance, 18)),
            ("NL", bank + _digits(chance, 10)),
            ("ES", _digits(chance, 20)),
            ("FR", _digits(chance, 10) + "".join(chance.choices(wide, k=11)) + _digits(chance, 2)),
            ("IT", bank[0] + _digits(chance, 10) + "".join(chance.choices(wide, k=12))),
        )
    )
    check = 98 - int("".join(str(int(sign, 36)) for sign in f"{body}{country}00")) % 97
    number = f"{country}{check:02d}{body}"
    return number if chance.random() < 0.5 else " ".join(re.findall(".{1,4}", number))


def _ip(chance: random.Random) -> str:
    if chance.random() < 0.8:
        first = chance.choice((5, 31, 62, 81, 93, 134, 151, 185, 194, 212))
        return ".".join(map(str, (first, *(chance.randrange(256) for _ in range(2)), chance.randrange(1, 255))))
    groups = [f"{chance.randrange(1, 65536):x}" for _ in range(6)]
    return "2a02:" + (":".join(["26f7", *groups]) if chance.random() < 0.5 else f"{groups[0]}::{groups[1]}")
