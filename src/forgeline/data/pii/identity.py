"""National ids, postcodes and dates of birth, by region and language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from forgeline.data.pii.recogniser import Recogniser, Span, recognise


def checked(module: str) -> Callable[[str], bool]:
    """Return the validator of a python-stdnum module, such as `gb.nhs`."""
    is_valid: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return is_valid


SSN_WORDS = r"ssns?|social security(?: (?:number|no))?|ss ?#|ss no"
NINO = r"[{first}][{second}] ?[0-9]{{2}} ?[0-9]{{2}} ?[0-9]{{2}} ?[{last}]"
NINO_UPPER = NINO.format(first="A-CEGHJ-PR-TW-Z", second="A-CEGHJ-NPR-TW-Z", last="A-D")
NINO_LOWER = NINO.format(first="a-ceghj-pr-tw-z", second="a-ceghj-npr-tw-z", last="a-d")
FISCAL = r"(?i:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])"

# A form whose digits are weak evidence, or none, needs one of its context words in front.
NATIONAL_IDS: dict[str, list[tuple[str, str | None, str | None]]] = {
    "GB": [
        (NINO_UPPER, None, None),
        (NINO_LOWER, None, r"nino|ni (?:number|no)|national insurance(?: (?:number|no))?"),
        (r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", "gb.nhs", r"nhs(?: (?:number|no))?"),
    ],
    "US": [
        (r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "us.ssn", None),
        (r"9[0-9]{2}-[0-9]{2}-[0-9]{4}", "us.itin", None),
        (r"[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{4}", None, rf"{SSN_WORDS}|itin|taxpayer id"),
    ],
    "CA": [(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", "ca.sin", r"sin|s\.i\.n\.|social insurance|nas")],
    "DE": [
        (
            r"[1-9][0-9](?: ?[0-9]{3}){3}",
            "de.idnr",
            r"steuer-?id(?:entifikationsnummer|nr)?|steuer-identifikationsnummer|id-?nr|tin|tax id",
        )
    ],
    "FR": [(r"[12] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir", None)],
    "ES": [(r"(?i:[0-9]{8}[ -]?[A-Z])", "es.dni", None), (r"(?i:[XYZ][ -]?[0-9]{7}[ -]?[A-Z])", "es.nie", None)],
    "IT": [
        (r"(?i:[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z])", "it.codicefiscale", None)
    ],
    "NL": [(r"[0-9]{4}\.?[0-9]{2}\.?[0-9]{3}", "nl.bsn", r"bsn|burgerservicenummer|sofi(?:-?nummer)?")],
    "PL": [(r"[0-9]{11}", "pl.pesel", r"pesel")],
    "BR": [(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf", None), (r"[0-9]{11}", "br.cpf", r"cpf")],
    "IN": [
        (r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", "in_.aadhaar", r"aadhaa?r|uid(?:ai)?|आधार"),
        (r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", "in_.pan", None),
    ],
    "SE": [
        (r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", "se.personnummer", None),
        (r"(?:19|20)?[0-9]{10}", "se.personnummer", r"personnummer|personnr|pnr|person-?nr"),
    ],
    "AU": [(r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "au.tfn", r"tfn|tax file(?: (?:number|no))?")],
    "IE": [(r"(?i:[0-9]{7}[A-W][A-IW]?)", "ie.pps", None)],
}


def national_id(regions: Sequence[str]) -> list[Recogniser]:
    """Return the recognisers of the ids of the regions, each by its check digits where it has some."""
    return [
        recognise("national_id", pattern, checked(module) if module else None, context)
        for region in regions
        for pattern, module, context in NATIONAL_IDS.get(region, [])
    ]


AREAS = (
    "AB|AL|BA|BB|BD|BH|BL|BN|BR|BS|BT|CA|CB|CF|CH|CM|CO|CR|CT|CV|CW|DA|DD|DE|DG|DH|DL|DN|DT|DY|EC|EH|EN|EX|FK|FY|GL|GU|GY"
    "|HA|HD|HG|HP|HR|HS|HU|HX|IG|IM|IP|IV|JE|KA|KT|KW|KY|LA|LD|LE|LL|LN|LS|LU|ME|MK|ML|NE|NG|NN|NP|NR|NW|OL|OX|PA|PE|PH|PL"
    "|PO|PR|RG|RH|RM|SA|SE|SG|SK|SL|SM|SN|SO|SP|SR|SS|ST|SW|SY|TA|TD|TF|TN|TQ|TR|TS|TW|UB|WA|WC|WD|WF|WN|WR|WS|WV|YO|ZE"
    "|B|E|G|L|M|N|S|W"
)
STATES = (
    "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT|V[AT]"
    "|W[AIVY]"
)
POST_WORDS = (
    r"post ?-?code|postal(?: code)?|zip ?-?(?:code)?|plz|postleitzahl|code postal|cp|c\.p\.|c[óo]digo postal|cap|cep"
    r"|postnummer|eircode|kod pocztowy|pin(?: ?code)?"
)
CITY = r"(?:[ ,]{1,2}[A-ZÀ-Þ]\w)"
# What stands before the code, the code, and what stands after it; (?i:) where lower case is usual in text.
POSTCODES: dict[str, list[tuple[str, str, str]]] = {
    "GB": [("", rf"(?i:GIR ?0AA|(?:{AREAS})[0-9][0-9A-Z]? ?[0-9][ABD-HJLNP-UW-Z]{{2}})", "")],
    "US": [(rf"(?:{STATES}),? ", r"[0-9]{5}(?:-[0-9]{4})?", ""), ("", r"[0-9]{5}-[0-9]{4}", "")],
    "CA": [("", r"(?i:[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9])", "")],
    "NL": [("", r"[1-9][0-9]{3} ?(?:[A-RT-Z][A-Z]|S[BCE-RT-Z])", "")],
    "IE": [("", r"(?:[AC-FHKNPRTV-Y][0-9]{2}|D6W) ?[0-9AC-FHKNPRTV-Y]{4}", "")],
    "BR": [("", r"[0-9]{5}-[0-9]{3}", "")],
    "PL": [("", r"[0-9]{2}-[0-9]{3}", "")],
    "SE": [("", r"[1-9][0-9]{2} [0-9]{2}", CITY)],
    "IN": [(r"[A-Z][a-z]{1,20}(?: [-–])? ", r"[1-9][0-9]{2} ?[0-9]{3}", "")],
    "AU": [(r"(?:NSW|VIC|QLD|WA|SA|TAS|ACT|NT),? ", r"[0-9]{4}", "")],
    **{
        region: [(r"[0-9]{1,4}[A-Za-z]?,? |[A-Za-zÀ-ÿ]{2,30}, |(?:D|DE|F|FR|E|ES|I|IT)-", r"[0-9]{5}", CITY)]
        for region in ("DE", "FR", "ES", "IT")
    },
}
WORDED = {  # the bare digits, after a word for a postcode
    "US": r"[0-9]{5}", "DE": r"[0-9]{5}", "FR": r"[0-9]{5}", "ES": r"[0-9]{5}", "IT": r"[0-9]{5}",
    "SE": r"[1-9][0-9]{2} ?[0-9]{2}", "IN": r"[1-9][0-9]{2} ?[0-9]{3}", "AU": r"[0-9]{4}", "BR": r"[0-9]{8}",
}  # fmt: skip
ORDINAL = re.compile(r"[a-z0-9]+ [0-9](?:st|nd|rd|th)")


def postcode(regions: Sequence[str]) -> list[Recogniser]:
    """Return the recognisers of the postcodes of the regions; those of digits alone need an address or a word."""
    rows = [row for region in regions for row in POSTCODES.get(region, [])]
    digits = dict.fromkeys(WORDED[region] for region in regions if region in WORDED)
    gap = r"[ :.#-]{1,3}(?:(?:is|code)[ :]{1,2})?"
    rows += [(rf"(?i:{POST_WORDS}){gap}", pattern, "") for pattern in digits]
    return [_postcode(before, code, after) for before, code, after in rows]


def _postcode(before: str, code: str, after: str) -> Recogniser:
    search = re.compile(rf"(?<![\w#-])(?:{before})(?<!\w-)(?<!\d[.,/])({code})(?![\w-]|[.,/]\d)(?={after})")

    def find(text: str) -> Iterator[Span]:
        for match in search.finditer(text):
            if not ORDINAL.fullmatch(match[1]):
                yield match.span(1)

    return Recogniser("postcode", (f"(?:{before}){code}",), find)


BORN = (
    r"born|birth ?-?(?:date|day)?|(?:date|day) of birth|d\.?o\.?b\.?|b-?day|geboren|geb\.|geburts(?:datum|tag)|n[ée]e?"
    r"|naissance|nacid[oa]|nacimiento|nat[oa]|nascita|nascid[oa]|nascimento|geboortedatum|geboortedag|urodz\w{0,8}|ur\."
    r"|född|födelsedatum"
)
MONTHS = (
    r"jan(?:uary|uar|vier|uari|eiro)?|ene(?:ro)?|gennaio|feb(?:ruary|ruar|braio|rero|ruari)?|fev(?:ereiro)?|f[ée]vr(?:ier)?|m(?:ar(?:ch|s|zo|ço|t)?|ärz|aart|aj)"
    r"|a(?:pr(?:il[e]?)?|vr(?:il)?|br(?:il)?)|mayo?|maio?|maggio|mei|jun(?:e|i|ho|io)?|juin|giugno|jul(?:y|i|ho|io)?"
    r"|juil(?:let)?|luglio|aug(?:ust|ustus|usti)?|ao[ûu]t|ago(?:sto)?|sep(?:t(?:ember|embre)?|tiembre)?|set(?:tembre|embro)"
    r"|o[ck]t(?:ober|obre|ubre)?|ottobre|outubro|nov(?:ember|embre|iembre|embro)?|de[cz](?:ember|embre|embro)?"
    r"|d[ée]c(?:embre)?|dic(?:iembre|embre)?"
)
YEAR = r"(?:19|20)[0-9]{2}"
DATES = (
    rf"{YEAR}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,2}}|{YEAR}(?:0[1-9]|1[0-2])[0-3][0-9]"
    rf"|[0-9]{{1,2}}([-/. ])[0-9]{{1,2}}\2(?:{YEAR}|[0-9]{{2}})"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.|er|º)?(?: of| de)?[ -](?:{MONTHS})[.,]?(?: de| del)?[ -](?:{YEAR}|[0-9]{{2}})"
    rf"|(?:{MONTHS})\.? [0-9]{{1,2}}(?:st|nd|rd|th)?,? {YEAR}"
)
LINK = (  # words between the word for birth and the date; a place may be one of them
    r"on|is|was|the|of|as|given|date|day|her|his|my|their|am|den|le|el|il|em|op|dnia|dne"
    r"|(?:in|at|near|[àaá]|en|em|te|w|i) [\w'-]+(?:,? [A-Z][\w'-]+)?"
)
BIRTH = re.compile(
    rf"(?i:(?<!\w)(?:{BORN})(?!\w))(?:\W{{1,3}}(?i:{LINK})(?!\w)){{0,5}}\W{{0,4}}"
    rf"(?i:(?<!\w)({DATES})(?!\w|[-/.]\d))"
)
DATED = re.compile(rf"(?i)(?<!\w)({DATES})(?!\w) ?[,(] ?(?:{BORN})(?!\w)")


def birth_date() -> list[Recogniser]:
    """Return the recogniser of dates that follow a word for birth, with no other number and no sentence between."""

    def find(text: str) -> Iterator[Span]:
        for search in (BIRTH, DATED):
            for match in search.finditer(text):
                yield match.span(1)

    return [Recogniser("birth_date", (rf"(?i:{BORN})", "[0-9]{2}"), find)]
