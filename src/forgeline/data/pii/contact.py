"""E-mail addresses (RFC 5321, 6531) and phone numbers (ITU-T E.164, E.123)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from forgeline.data.pii.recogniser import NEAR, Recogniser, Span, near

ATOM = r"[\w!#$%&'*+/=?^`{|}~.-]"
EMAIL = re.compile(
    rf"(?:(?<!{ATOM}){ATOM}+|\"(?:[^\"\\\n]|\\.){{1,64}}\")"
    r"@(?:(?:[^\W_](?:[\w-]{0,62}[^\W_])?\.)+(?:xn--[a-zA-Z0-9-]{1,59}|[^\W\d_]{2,24})(?!\w)"
    r"|\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\])"
)
LABEL = re.compile(
    r"(?:e?-?mail|from|to|cc|user|username|login|contact)=|//|'", re.I
)  # atoms by RFC, labels in practice


def email() -> Recogniser:
    """Return the recogniser of addresses; `git@host` names a service, not a mailbox."""

    def find(text: str) -> Iterator[Span]:
        for match in EMAIL.finditer(text):
            start = match.start()
            if label := LABEL.match(text, start):
                start = label.end()
            if not text.startswith(("git@", "@"), start):
                yield start, match.end()

    return Recogniser("email", "@", find, str.casefold)


GAP = r"[ \u00a0().\-/\u2010-\u2013]{0,4}"
INNER = r"(?:[ \u00a0()\-/\u2010-\u2013]|\.(?! )){0,4}"  # a dot and a space end a sentence
RUN = re.compile(rf"(?<![\w+#@$€£\\])(?<!\w[./,-])(?:\(?\+ ?)?\(?[0-9](?:{INNER}[0-9])+(?![\w+]|[,:]\d)")
GROUP = re.compile(r"[0-9]+")
DATED = re.compile(
    r"(?:0?[1-9]|[12]\d|3[01])([./ -])(?:0?[1-9]|1[0-2])\1(?:19|20)\d\d|(?:0?[1-9]|1[0-2])([./-])\d\d?\2(?:19|20)\d\d"
    r"|(?:19|20)\d\d([./ -]?)(?:0[1-9]|1[0-2])\3(?:0[1-9]|[12]\d|3[01])"
    r"|\d{5}-\d{4}"  # ZIP+4
)
CODE = re.compile(
    r"(?i:is[bs]n(?:-1[03])?|ean|upc|gtin)\W{0,3}$|[A-Z]{2}\d\d(?:[ -][A-Z0-9]{4})*[ -]$"
)  # books, goods, IBANs
PHONE = near(
    r"calls?|called|phones?|tele?(?:phone)?s?|mobiles?|cell(?:ular)?|fax|text|sms|whatsapp|contact|ring|dial|reach|handy"
    r"|telefon\w*|rufnummer|t[ée]l[ée]phone|portable|m[óo]vil|tel[ée]fono|cellulare|celular|telefoon|komórk\w*"
)
OTHER = re.compile(  # what a number that follows at once belongs to
    r"(?i)(?<![^\W_])(?:orders?|invoice|ticket|tracking|ref(?:erence)?s?|booking|confirmation|is[bs]n(?:-1[03])?|ean|upc|gtin"
    r"|barcode|imei|serial|sku|part|lot|batch|case|article|doi|ids?|account|acct|epoch|timestamp|version|build|po|asin"
    r"|registration|population|binary|pages?|years?|score|item|product|model|vat|iban|card|usd|eur|gbp|inr|rs)"
    r"\W{0,3}(?:(?:number|no|nr|num|code|id|is|was|#)\W{1,3}){0,3}$"
)
UNIT = re.compile(
    r"(?i)\s?(?:%|°|€|£|\$|(?:k?m|kg|kwh|[kmgt]b|bytes|ms|m/s|people|users|inhabitants|views|stars|rows|words|items|units"
    r"|dollars|pounds|euros)\b)"
)
THOUSANDS = re.compile(r"\d{1,3}(?:([., ])\d{3})(?:\1\d{3})*")


class Plan(NamedTuple):
    """A numbering plan: its lengths, its numbers by form and as handed out, and what is dialled before them."""

    lengths: frozenset[int]
    general: re.Pattern[str]
    valid: re.Pattern[str]
    trunk: str


@cache
def plan_of(code: int) -> Plan:
    """Return the plan of a country calling code, over all the regions that share it."""
    regions = COUNTRY_CODE_TO_REGION_CODE[code]
    plans: list[Any] = [
        PhoneMetadata.metadata_for_nongeo_region(code, None)
        if region == "001"
        else PhoneMetadata.metadata_for_region(region)
        for region in regions
    ]
    types = (
        "fixed_line",
        "mobile",
        "toll_free",
        "premium_rate",
        "shared_cost",
        "personal_number",
        "voip",
        "uan",
        "pager",
    )
    valid = [getattr(plan, one).national_number_pattern for plan in plans for one in types if getattr(plan, one)]
    return Plan(
        frozenset(length for plan in plans for length in plan.general_desc.possible_length),
        re.compile("|".join(f"(?:{plan.general_desc.national_number_pattern})" for plan in plans)),
        re.compile("|".join(f"(?:{pattern})" for pattern in valid if pattern)),
        plans[0].national_prefix or "",
    )


class Phones:
    """Finds numbers in international form, and in the national forms of the regions."""

    def __init__(self, regions: Sequence[str]) -> None:
        codes = dict.fromkeys(PhoneMetadata.metadata_for_region(region).country_code for region in regions)
        self.plans = {code: plan_of(code) for code in codes}

    def find(self, text: str) -> Iterator[Span]:
        """Yield the numbers of a text; each is the longest run of digit groups that some plan has."""
        for run in RUN.finditer(text):
            if CODE.search(text, max(0, run.start() - NEAR), run.start()):
                continue
            groups = [group.span() for group in GROUP.finditer(text, *run.span())]
            first = after = 0
            while first < len(groups):
                free = first == after or _parted(text, groups, first)
                last = self._longest(text, groups, first, run.start()) if free else None
                if last is not None:
                    yield _opening(text, groups, first, run.start()), groups[last][1]
                    first, after = last, last + 1
                first += 1

    def canonical(self, value: str) -> str:
        """Return a number in the form of E.164, as far as its country is known."""
        digits = "".join(GROUP.findall(value.replace("(0)", "")))
        if "+" in value:
            return "+" + (_international(digits) or digits)
        if digits.startswith("00") and (number := _international(digits[2:])):
            return "+" + number
        for code, plan in self.plans.items():
            for national in _national(digits, plan):
                if plan.general.fullmatch(national):
                    return f"+{code}{national}"
        return digits

    def _longest(self, text: str, groups: list[Span], first: int, left: int) -> int | None:
        start = _opening(text, groups, first, left)
        digits = 0
        fits = []
        for last in range(first, len(groups)):
            digits += groups[last][1] - groups[last][0]
            if digits > 17:
                break
            if digits >= 7 and (last + 1 == len(groups) or _parted(text, groups, last + 1)):
                fits.append(last)
        for last in reversed(fits):
            if self._is_phone(text, start, groups[first : last + 1]):
                return last
        return None

    def _is_phone(self, text: str, start: int, groups: list[Span]) -> bool:
        end = groups[-1][1]
        piece = text[start:end]
        sizes = [right - left for left, right in groups]
        digits = "".join(text[left:right] for left, right in groups)
        if "+" in piece:
            return len(digits) >= 8 and _international(_without_trunk(piece)) is not None
        if DATED.fullmatch(piece) or OTHER.search(text, max(0, start - NEAR), start) or UNIT.match(text, end):
            return False
        if digits.startswith("00"):
            number = _international(_without_trunk(piece)[2:])
            return number is not None and len(number) >= 9
        context = PHONE.search(text, max(0, start - NEAR), start) is not None
        return any(_fits(piece, digits, sizes, plan, context) for plan in self.plans.values())


def _fits(piece: str, digits: str, sizes: list[int], plan: Plan, context: bool) -> bool:
    """Say whether a number without a country code is one of the plan's."""
    if min(sizes) < 2 and not (sizes[0] == 1 and plan.trunk == "1" == digits[0]):
        return False
    if plan.trunk != "1" and plan.trunk and digits.startswith(plan.trunk):
        national = digits.removeprefix(plan.trunk)
        return len(national) >= 7 and plan.general.fullmatch(national) is not None
    if plan.trunk == "1":
        national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        if sizes[-3:] == [3, 3, 4] and len(national) == 10:
            return plan.general.fullmatch(national) is not None
        return len(national) == 10 and len(sizes) == 1 and plan.valid.fullmatch(national) is not None
    if plan.trunk and not context and "(" not in piece:
        return False
    if THOUSANDS.fullmatch(piece) and not context:
        return False
    return plan.valid.fullmatch(digits) is not None


def _national(digits: str, plan: Plan) -> Iterator[str]:
    if plan.trunk and digits.startswith(plan.trunk):
        yield digits.removeprefix(plan.trunk)
    yield digits


def _without_trunk(piece: str) -> str:
    return "".join(GROUP.findall(piece.replace("(0)", " ")))


def _international(digits: str) -> str | None:
    """Return country code and national number if some plan has numbers of that length and form."""
    for size in (1, 2, 3):
        code = int(digits[:size] or 0)
        if code in COUNTRY_CODE_TO_REGION_CODE:
            plan = plan_of(code)
            for national in _national(digits[size:], plan):
                if len(national) in plan.lengths and plan.general.fullmatch(national):
                    return f"{code}{national}"
    return None


def _opening(text: str, groups: list[Span], first: int, left: int) -> int:
    """Return where a number starts: its plus sign and bracket come before its first digit."""
    start = groups[first][0]
    floor = groups[first - 1][1] if first else left
    while start > floor and text[start - 1] in "+(":
        start -= 1
    if text[start : start + 1] == "(" and ")" not in text[start : groups[-1][1]]:
        start += 1
    return start


def _parted(text: str, groups: list[Span], at: int) -> bool:
    """Say whether a number may end before the group, or start with it: what parts them differs, or opens a number."""
    gap = text[groups[at - 1][1] : groups[at][0]]
    (left, middle), (_, right) = groups[at - 1], groups[at]
    if "+" in gap or "(" in gap or right - groups[at][0] < 3 or (text[groups[at][0]] == "0" and middle - left < 4):
        return True
    before = text[groups[at - 2][1] : groups[at - 1][0]] if at > 1 else None
    after = text[groups[at][1] : groups[at + 1][0]] if at + 1 < len(groups) else None
    return gap not in (before, after)


def phone(regions: Sequence[str]) -> Recogniser:
    """Return the recogniser of phone numbers; the gate wants seven digits near each other."""
    phones = Phones(regions)
    return Recogniser("phone", rf"[0-9](?:{GAP}[0-9]){{6}}", phones.find, phones.canonical)
