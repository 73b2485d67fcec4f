"""Phone numbers: ITU-T E.164 in its usual writings, and the national forms of regions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from forgeline.data.pii.recogniser import NEAR, Recogniser, Span

MOST_DIGITS = 17  # fifteen of E.164, and the 00 in front
GATE = r"[0-9](?:[ \u00a0().\-/\u2010-\u2013]{0,4}[0-9]){6}"
GAP = r"(?:[ \u00a0()\-/\u2010-\u2013]|\.(?! )){0,4}"  # a dot and a space end a sentence
RUN = re.compile(  # the first character comes first: Python finds a class faster than what stands before it
    r"[(+0-9](?<![\w+#@$€£\\][(+0-9])(?<!\w[./,-][(+0-9])(?<!\d:[(+0-9])(?:(?<=\()\+)?"
    rf"(?:{GAP}[0-9]){{6,}}(?![\w+]|[,:]\d|-\w)"
)
GROUP = re.compile(r"[0-9]+")
NOT_PHONE = re.compile(
    r"(?:0?[1-9]|[12]\d|3[01])([./ -])(?:0?[1-9]|1[0-2])\1(?:19|20)\d\d|(?:0?[1-9]|1[0-2])([./-])\d\d?\2(?:19|20)\d\d"
    r"|(?:19|20)\d\d([./ -]?)(?:0[1-9]|1[0-2])\3(?:0[1-9]|[12]\d|3[01])"  # dates
    r"|(?:19|20)\d\d[-/–](?:19|20)\d\d|\d{5}-\d{3,4}"  # years; ZIP+4 and CEP
)
CARD = re.compile(r"(?<!\d)\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?!\d)")  # one whose check digit fails
CODE = re.compile(  # books, goods, the head of an IBAN
    r"(?i:is[bs]n(?:-1[03])?|ean|upc|gtin|barcode)\W{0,3}$|[A-Z]{2}\d\d(?:[ -][A-Z0-9]{4})*[ -]$"
)
WORD = re.compile(r"[^\W_]+")
PHONE = frozenset(
    [
        *("call", "calls", "called", "calling", "phone", "phones", "tel", "telephone", "telephones", "mobile", "cell"),
        *(
            "cellular",
            "fax",
            "text",
            "sms",
            "whatsapp",
            "contact",
            "number",
            "ring",
            "dial",
            "reach",
            "handy",
            "telefon",
        ),
        *(
            "telefonnummer",
            "rufnummer",
            "mobilnummer",
            "téléphone",
            "portable",
            "móvil",
            "movil",
            "teléfono",
            "telefono",
        ),
        *("cellulare", "celular", "telefoon", "telefone", "numer", "komórka"),
    ]
)
OTHER = frozenset(  # a number that follows at once is one of these
    [
        *(
            "order",
            "orders",
            "invoice",
            "ticket",
            "tracking",
            "ref",
            "reference",
            "refs",
            "references",
            "booking",
            "id",
        ),
        *(
            "confirmation",
            "issn",
            "doi",
            "ids",
            "account",
            "acct",
            "imei",
            "serial",
            "sku",
            "part",
            "lot",
            "batch",
            "case",
        ),
        *("article", "epoch", "timestamp", "version", "build", "po", "asin", "registration", "population", "binary"),
        *("page", "pages", "year", "years", "score", "item", "product", "model", "vat", "iban", "card", "commit"),
        *("usd", "eur", "gbp", "inr", "rs"),
    ]
)
LINK = frozenset(["number", "no", "nr", "num", "code", "id", "is", "was"])
UNIT = re.compile(
    r"(?i) ?(?:%|°|€|£|\$|(?:k?m|kg|kwh|[kmgt]b|bytes|ms|m/s|people|users|inhabitants|views|stars|rows|words|items"
    r"|units|dollars|pounds|euros)\b)"
)
THOUSANDS = re.compile(r"\d{1,3}(?:([., ])\d{3})(?:\1\d{3})*")
TYPES = ("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "uan", "pager")


class Plan(NamedTuple):
    """A numbering plan: its lengths, its numbers by form and as handed out, and what is dialled before them."""

    lengths: frozenset[int]
    general: re.Pattern[str]
    valid: re.Pattern[str]
    trunk: str


@cache
def plan_of(code: int) -> Plan:
    """Return the plan of a country calling code, over all the regions that share it."""
    plans: list[Any] = [
        PhoneMetadata.metadata_for_region_or_calling_code(code, region) for region in COUNTRY_CODE_TO_REGION_CODE[code]
    ]
    described = [getattr(plan, one) for plan in plans for one in TYPES]
    valid = [one.national_number_pattern for one in described if one and one.national_number_pattern]
    return Plan(
        frozenset(length for plan in plans for length in plan.general_desc.possible_length),
        re.compile("|".join(plan.general_desc.national_number_pattern for plan in plans)),
        re.compile("|".join(valid)),
        plans[0].national_prefix or "",
    )


def phone(regions: Sequence[str]) -> list[Recogniser]:
    """Return the recogniser of phone numbers; the gate wants seven digits near each other."""
    phones = Phones(regions)
    return [Recogniser("phone", (GATE,), phones.find, phones.canonical)]


class Phones:
    """Finds numbers in international form, and in the national forms of the regions."""

    def __init__(self, regions: Sequence[str]) -> None:
        metadata: list[Any] = [PhoneMetadata.metadata_for_region(region) for region in regions]
        self.plans = {code: plan_of(code) for code in dict.fromkeys(one.country_code for one in metadata)}

    def find(self, text: str) -> Iterator[Span]:
        """Yield the numbers of a text; each is the longest run of digit groups that some plan has."""
        for run in RUN.finditer(text):
            if CARD.search(run[0]) or CODE.search(text, max(0, run.start() - NEAR), run.start()):
                continue
            groups = [group.span() for group in GROUP.finditer(text, *run.span())]
            first = after = 0
            while first < len(groups):
                free = first == after or _parted(text, groups, first, 3)
                last = self._longest(text, groups, first, run.start()) if free else None
                if last is not None:
                    yield _opening(text, groups, first, run.start()), groups[last][1]
                    first, after = last, last + 1
                first += 1

    def canonical(self, value: str) -> str:
        """Return a number in the form of E.164, as far as its country is known."""
        digits = _digits(value)
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
        """Return the last group of the longest number that starts with the first group, if one does."""
        start = _opening(text, groups, first, left)
        digits = 0
        fits = []
        for last in range(first, len(groups)):
            digits += groups[last][1] - groups[last][0]
            if digits > MOST_DIGITS:
                break
            if digits >= 7 and (last + 1 == len(groups) or _parted(text, groups, last + 1, MOST_DIGITS)):
                fits.append(last)
        return next((last for last in reversed(fits) if self._is_phone(text, start, groups[first : last + 1])), None)

    def _is_phone(self, text: str, start: int, groups: list[Span]) -> bool:
        end = groups[-1][1]
        piece = text[start:end]
        digits = _digits(piece)
        if "+" in piece:
            return len(digits) >= 8 and _international(digits) is not None
        sizes = [right - left for left, right in groups]
        loose = min(sizes) < 2 and sizes[-3:] != [3, 3, 4] and not digits.startswith("00")  # fits no plan
        if loose or NOT_PHONE.fullmatch(piece) or UNIT.match(text, end):
            return False
        if not digits.startswith("00") and not any(_possible(digits, plan) for plan in self.plans.values()):
            return False
        context, other = _lead(text, start)
        if digits.startswith("00"):
            number = _international(digits[2:])
            return not other and number is not None and len(number) >= 9
        if len(digits) < 8 and not context:
            return False
        return any(_fits(piece, digits, sizes, plan, context, other) for plan in self.plans.values())


def _fits(piece: str, digits: str, sizes: list[int], plan: Plan, context: bool, other: bool) -> bool:
    """Say whether a number without a country code is one of the plan's.

    With a trunk prefix, or in the groups of the North American plan, its general form is enough; else it
    must be handed out, and written like a phone number or near a word for one. After a word for something
    else, only a number with a trunk prefix counts, and ten digits where the plan has no longer numbers.
    """
    if plan.trunk == "1":
        national = digits[1:] if len(digits) == 11 and digits[0] == "1" else digits
        numbers = plan.general if sizes[-3:] == [3, 3, 4] else plan.valid
        usual = sizes[-3:] == [3, 3, 4] or len(sizes) == 1
        return not other and usual and len(national) == 10 and numbers.fullmatch(national) is not None
    if min(sizes) < 2:
        return False
    if plan.trunk and digits.startswith(plan.trunk):
        national = digits.removeprefix(plan.trunk)
        enough = len(national) >= 7 and not (other and not len(national) == max(plan.lengths) == 10)
        return enough and plan.general.fullmatch(national) is not None
    plain = not plan.trunk or "(" in piece
    likely = context or (plain and not other and not THOUSANDS.fullmatch(piece))
    return likely and plan.valid.fullmatch(digits) is not None


def _lead(text: str, start: int) -> tuple[bool, bool]:
    """Say whether the words in front of a number speak of phones, and whether they make it something else's."""
    before = text[max(0, start - NEAR) : start].rpartition("]")[2]  # the word of a tag says nothing
    words = [word.casefold() for word in WORD.findall(before)]
    last = len(words) - 1
    while last > 0 and words[last] in LINK and len(words) - last <= 3:
        last -= 1
    ended = before.rstrip().endswith((" .", "!", "?")) or (before.endswith(". ") and words[-1:] != ["no"])
    other = not ended and not OTHER.isdisjoint(words[max(0, last) :])
    return not other and not PHONE.isdisjoint(words), other


def _possible(digits: str, plan: Plan) -> bool:
    return any(plan.general.fullmatch(national) for national in _national(digits, plan))


def _digits(piece: str) -> str:
    """Return the digits of a number, less a trunk prefix in brackets."""
    return "".join(GROUP.findall(piece.replace("(0)", " ")))


def _national(digits: str, plan: Plan) -> Iterator[str]:
    if plan.trunk and digits.startswith(plan.trunk):
        yield digits.removeprefix(plan.trunk)
    yield digits


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


def _parted(text: str, groups: list[Span], at: int, longest: int) -> bool:
    """Say whether a number may stop before a group, or start with it.

    Either the gaps around it differ, or the group opens a number: by a plus sign, a bracket, or a zero
    after a group no longer than `longest`.
    """
    gap = text[groups[at - 1][1] : groups[at][0]]
    (before, middle), (start, end) = groups[at - 1], groups[at]
    if "+" in gap or "(" in gap or end - start < 3 or (text[start] == "0" and middle - before <= longest):
        return True
    ahead = text[groups[at - 2][1] : before] if at > 1 else None
    behind = text[end : groups[at + 1][0]] if at + 1 < len(groups) else None
    return gap not in (ahead, behind)
