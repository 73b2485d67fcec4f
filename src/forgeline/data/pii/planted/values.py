"""Planted values whose form is the same everywhere: RFC 5321, E.164, ISO 7812, ISO 13616, RFC 4291, RFC 3986."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

from forgeline.data.pii.planted.arithmetic import fill, group, iban_check, luhn_digit

Sample = Callable[[random.Random], tuple[str, str, str]]
ALNUM = string.ascii_letters + string.digits
WORDS = ("jo", "ana", "li.wei", "m_khan", "sales-team", "o'brien", "Maria.Garcia", "x", "info", "k9", "first.last")
DOMAINS = (
    *("example.com", "example.org", "mail.example.co.uk", "sub.dept.example.net", "EXAMPLE.COM", "a-b.example.museum"),
    *(
        "xn--bcher-kva.example",
        "bücher.example",
        "例え.テスト",
        "почта.рф",
        "x.io",
        "uni-köln.example.de",
        "1and1.example",
    ),
)


def plain(make: Callable[[random.Random], str]) -> Sample:
    """Return a form whose value needs nothing around it."""
    return lambda chance: ("", make(chance), "")


def _atom(chance: random.Random) -> str:
    """Return an atom of RFC 5322 with its rarer characters."""
    return "".join(chance.choices(ALNUM + "!#$%&'*+-/=?^_{|}~", k=6)) + chance.choice(ALNUM)


EMAILS: list[Sample] = [
    plain(lambda c: f"{c.choice(WORDS)}{c.randrange(100)}@{c.choice(DOMAINS)}"),
    plain(lambda c: f"{c.choice(WORDS)}@{c.choice(DOMAINS)}"),
    plain(lambda c: f"{c.choice(WORDS)}+{c.choice(('news', 'tag-1', 'a.b'))}@{c.choice(DOMAINS)}"),
    plain(lambda c: f"{c.choice(('用户', 'jörg.müller', 'иван', 'θσερ', 'josé'))}@{c.choice(DOMAINS)}"),
    plain(lambda c: f"{c.choice(ALNUM)}{_atom(c)}@{c.choice(DOMAINS)}"),
    plain(lambda c: f'"{c.choice(("Fred Bloggs", "john..doe", "much more", "a@b"))}"@{c.choice(DOMAINS[:4])}'),
    plain(lambda c: f"{c.choice(WORDS)}@[{c.randrange(1, 255)}.{c.randrange(256)}.{c.randrange(256)}.7]"),
]

# country code | trunk prefix | national groups, from national numbering plans; fictional ranges where one is published
PLANS = {
    "GB": "44|0|20 7946 0###;44|0|7700 900###;44|0|121 496 0###;44|0|1632 960###;44|0|1223 3#####;44|0|161 4## ####",
    "US": "1||212 555 01##;1||415 N## ####;1||312 N## ####;1||646 N## ####;1||808 555 01##",
    "CA": "1||416 N## ####;1||604 555 01##;1||514 N## ####",
    "DE": "49|0|30 N#######;49|0|151 Z#######;49|0|89 N#######;49|0|221 N######",
    "FR": "33|0|1 99 00 ## ##;33|0|6 39 98 ## ##;33|0|4 7# ## ## ##",
    "ES": "34||91N ### ###;34||612 ### ###;34||93N ### ###",
    "IT": "39||06 6### ####;39||347 ### ####;39||02 7### ####",
    "NL": "31|0|20 N## ####;31|0|6 2### ####;31|0|10 4## ####",
    "PL": "48||22 6## ## ##;48||512 ### ###;48||12 4## ## ##",
    "SE": "46|0|70 174 06 ##;46|0|8 465 004 ##;46|0|31 7## ## ##",
    "BR": "55|0|11 9N### ####;55|0|21 3### ####;55|0|61 9N### ####",
    "IN": "91|0|98### #####;91|0|11 2### ####;91|0|99### #####",
    "AU": "61|0|2 5550 ####;61|0|491 570 ###;61|0|3 7010 ####",
    "IE": "353|0|1 6## ####;353|0|87 N## ####;353|0|21 4## ####",
    "JP": "81|0|3 6### ####;81|0|90 N### ####",
    "CN": "86|0|138 #### ####;86|0|10 6### ####",
    "CH": "41|0|44 2## ## ##;41|0|79 N## ## ##",
    "AT": "43|0|1 5######;43|0|664 N######",
    "BE": "32|0|2 5## ## ##;32|0|475 ## ## ##",
    "DK": "45||33 1# ## ##",
    "NO": "47||22 8# ## ##",
    "FI": "358|0|40 N## ####",
    "PT": "351||21 3## ####;351||91N ### ###",
    "CZ": "420||602 ### ###",
    "ZA": "27|0|82 N## ####",
    "MX": "52||55 5### ####",
    "AR": "54|0|11 4### ####",
    "KR": "82|0|10 N### ####",
    "SG": "65||6N## ####",
    "NZ": "64|0|21 N## ####",
    "TR": "90|0|532 N## ## ##",
    "IL": "972|0|52 N## ####",
    "AE": "971|0|50 N## ####",
    "RU": "7|8|912 N## ## ##",
}
PAIRED = ["US", "CA"]  # (AAA) BBB-CCCC, as the North American plan writes it


def _plan(chance: random.Random, regions: Sequence[str]) -> tuple[str, str, str, str]:
    region = chance.choice(list(regions))
    code, trunk, number = chance.choice(PLANS[region].split(";")).split("|")
    return region, code, trunk, fill(number, chance)


def _international(prefix: str, gap: str, zero: bool = False) -> Sample:
    def make(chance: random.Random) -> str:
        _, code, _, number = _plan(chance, [one for one in PLANS if not zero or "|0|" in PLANS[one]])
        inner = "(0)" + chance.choice(["", " "]) if zero else ""
        return f"{prefix}{code}{gap if not zero else ' '}{inner}{number.replace(' ', gap)}"

    return plain(make)


def _national(regions: Sequence[str], gap: str, brackets: bool = False) -> Sample:
    def make(chance: random.Random) -> str:
        region, _, trunk, number = _plan(chance, regions)
        area, *rest = (trunk + number).split(" ")
        if brackets:
            return f"({area}) {('-' if region in PAIRED else ' ').join(rest)}"
        return gap.join([area, *rest])

    return plain(make)


def phone_forms(regions: Sequence[str]) -> list[Sample]:
    """Return the writings of ITU-T E.123, RFC 3966 and everyday use; national ones for the regions."""
    forms = [
        *(_international("+", gap) for gap in (" ", "-", ".", "")),
        *(_international("00", gap) for gap in (" ", "")),
        *(_international("+", gap, zero=True) for gap in (" ", "-")),
    ]
    if known := [region for region in regions if region in PLANS]:
        forms += [*(_national(known, gap) for gap in (" ", "-", "", ".")), _national(known, " ", brackets=True)]
        forms += [_national(known, " "), _national(known, "")]
    return forms


# issuer prefixes | length | groups, after ISO/IEC 7812 and the schemes' published ranges
CARDS = (
    *("4|16|4", "51,52,53,54,55|16|4", "2221,2300,2500,2699,2720|16|4", "34,37|15|4,6,5", "6011,65,644,649|16|4"),
    *("300,305,36,38|14|4,6,4", "3528,3589|16|4", "62|16|4", "62|19|6,13", "5018,5893,6304,6759|16|4", "4|13|13"),
    *("2200,2204|16|4", "4|19|4"),
)


def _card(gap: str) -> Sample:
    def make(chance: random.Random) -> str:
        prefixes, length, sizes = chance.choice(CARDS).split("|")
        body = fill(chance.choice(prefixes.split(",")).ljust(int(length) - 1, "#"), chance)
        return group(body + luhn_digit(body), [int(size) for size in sizes.split(",")], gap)

    return plain(make)


# the account part by country, after the IBAN registry of ISO 13616
IBANS = {
    "GB": "@@@@##############", "DE": "#" * 18, "FR": "##########***********##", "ES": "#" * 20, "NL": "@@@@##########",
    "IT": "@##########************", "BE": "#" * 12, "CH": "#####************", "AT": "#" * 16, "PL": "#" * 24,
    "PT": "#" * 21, "SE": "#" * 20, "DK": "#" * 14, "NO": "#" * 11, "FI": "#" * 14, "IE": "@@@@##############",
    "LU": "###*************", "CZ": "#" * 20, "HU": "#" * 24, "RO": "@@@@****************", "BG": "@@@@######********",
    "GR": "#######****************", "HR": "#" * 17, "SK": "#" * 20, "SI": "#" * 15, "LT": "#" * 16, "EE": "#" * 16,
    "LV": "@@@@*************", "CY": "########****************", "MT": "@@@@#####******************",
    "SA": "##******************", "AE": "#" * 19, "TR": "######****************", "IL": "#" * 19,
    "UA": "######*******************", "BR": "#######################@*",
}  # fmt: skip


def _iban(gap: str, lower: bool = False) -> Sample:
    def make(chance: random.Random) -> str:
        country = chance.choice(list(IBANS))
        account = fill(IBANS[country], chance)
        number = group(country + iban_check(country, account) + account, [4], gap)
        return number.lower() if lower else number

    return plain(make)


def _v4(chance: random.Random) -> str:
    network = chance.choice(["192.0.2", "198.51.100", "203.0.113", "10.0.0", "192.168.1", "172.16.254"])
    return (
        fill(f"{network}.Z#", chance)
        if chance.random() < 0.5
        else ".".join(str(chance.randrange(1, 255)) for _ in "1234")
    )


def _v6(chance: random.Random) -> str:
    """Return eight groups as RFC 4291, section 2.2, writes them: in full, shortened, or ending in an IPv4 address."""
    groups = ["2001", "db8", *(f"{chance.randrange(1, 65536):x}" for _ in range(6))]
    form = chance.randrange(6)
    if form == 0:
        text = ":".join(groups)
    elif form == 1:
        text = ":".join(part.zfill(4) for part in groups)
    elif form == 2:
        text = f"{':'.join(groups[: chance.randrange(2, 5)])}::{groups[-1]}"
    elif form == 3:
        text = f"fe80::{':'.join(groups[-chance.randrange(1, 4) :])}"
    elif form == 4:
        text = f"::ffff:{_v4(chance)}"
    else:
        text = f"{':'.join(groups[:3])}::"
    return text.upper() if chance.random() < 0.3 else text


IPS: list[Sample] = [
    *(plain(_v4), plain(_v4), plain(_v6), plain(_v6)),
    lambda c: ("http://[", _v6(c), f"]:{c.randrange(80, 9000)}/"),
    lambda c: ("", _v4(c), f":{c.randrange(80, 65536)}"),
    lambda c: ("http://", _v4(c), "/index.html"),
]

HOSTS = (
    "db.example.com",
    "example.org:8443",
    "cache.example.net:6379",
    "localhost",
    "pg-1.example.com:5432",
    "files.example.net",
)
SCHEMES = ("https", "http", "ftp", "postgresql", "mysql", "mongodb+srv", "redis", "amqp", "sftp", "postgresql+psycopg")


def _userinfo(chance: random.Random, user: str) -> tuple[str, str, str]:
    password = "".join(chance.choices(ALNUM + "-._~!$&'()*+,;=", k=chance.randrange(4, 20))) + chance.choice(
        ["", "%40", "%2F"]
    )
    tail = chance.choice(["", "/", "/app", "/v1/items?page=2", "/main?sslmode=require#top"])
    return f"{chance.choice(SCHEMES)}://", f"{user}:{password}x", f"@{chance.choice(HOSTS)}{tail}"


def _query(chance: random.Random) -> tuple[str, str, str]:
    name = chance.choice(
        ["token", "access_token", "api_key", "apikey", "password", "client_secret", "sig", "X-Amz-Signature"]
    )
    value = "".join(chance.choices(ALNUM + "-_", k=chance.randrange(16, 40))) + chance.choice(["", "%3D", "Q"])
    first = chance.choice(["?", "?page=2&", "?q=a%20b&lang=en&"])
    return f"https://api.example.com/v2/x{first}{name}=", value, chance.choice(["", "&page=3", "#top"])


MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
}
BORN = {
    "en": (
        *("born on ", "DOB: ", "date of birth: ", "D.O.B. ", "birthday is ", "born ", "birthdate=", "my birthday: "),
        "Date of birth (as given) ",
    ),
    "de": ("geboren am ", "Geburtsdatum: ", "geb. "),
    "fr": ("née le ", "né le ", "date de naissance : "),
    "es": ("fecha de nacimiento: ", "nacido el ", "nacida el "),
}
NUMERIC = (
    "{y}-{m:02d}-{d:02d}",
    "{d:02d}/{m:02d}/{y}",
    "{d}/{m}/{y}",
    "{d:02d}.{m:02d}.{y}",
    "{d:02d}-{m:02d}-{y}",
    "{d}/{m}/{s:02d}",
)


def _birth(chance: random.Random, language: str, forms: Sequence[str]) -> tuple[str, str, str]:
    year, month, day = chance.randrange(1926, 2016), chance.randrange(1, 13), chance.randrange(1, 29)
    name = MONTHS[language].split()[month - 1]
    ending = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
    text = chance.choice(forms).format(y=year, m=month, d=day, s=year % 100, M=name, B=name[:3], e=ending)
    return chance.choice(BORN[language]), text, ""


BIRTHS: list[Sample] = [
    lambda c: _birth(c, "en", NUMERIC),
    lambda c: _birth(
        c, "en", ("{d} {M} {y}", "{M} {d}, {y}", "{d}{e} {M} {y}", "{d}{e} of {M}, {y}", "{B} {d} {y}", "{d}-{B}-{y}")
    ),
    lambda c: _birth(c, "en", ("{y}{m:02d}{d:02d}", "{m:02d}/{d:02d}/{y}", "{M} {d}{e} {y}", "{y}/{m:02d}/{d:02d}")),
    lambda c: _birth(c, "de", (*NUMERIC[1:4], "{d}. {M} {y}")),
    lambda c: _birth(c, "fr", (*NUMERIC[1:2], "{d} {M} {y}")),
    lambda c: _birth(c, "es", (*NUMERIC[1:2], "{d} de {M} de {y}")),
]

FORMS: dict[str, list[Sample]] = {
    "email": EMAILS,
    "card": [_card(gap) for gap in ("", " ", "-")],
    "iban": [_iban(""), _iban(" "), _iban(" "), _iban("", lower=True)],
    "ip": IPS,
    "url_credentials": [
        lambda c: _userinfo(c, c.choice(["bob", "svc-app", "admin", "j.doe", "a%40b"])),
        lambda c: _userinfo(c, c.choice(["root", ""])),
        _query,
    ],
    "birth_date": BIRTHS,
}
