"""Planted national ids, each with its own check digits, and postcodes after UPU S42, by region."""

from __future__ import annotations

import random
from collections.abc import Callable

from forgeline.data.pii.planted.arithmetic import (
    DIGITS,
    LETTERS,
    fill,
    group,
    luhn_digit,
    mod_11_10,
    verhoeff_digit,
    weighted,
)

Sample = Callable[[random.Random], tuple[str, str, str]]


def labelled(labels: str, make: Callable[[random.Random], str]) -> Sample:
    """Return a form whose value stands after one of the labels, given with | between them."""

    def sample(chance: random.Random) -> tuple[str, str, str]:
        label = chance.choice(labels.split("|"))
        return (label + chance.choice([" ", ": ", " is ", " no. "]) if label else ""), make(chance), ""

    return sample


def _retry(chance: random.Random, make: Callable[[random.Random], str | None]) -> str:
    while (value := make(chance)) is None:
        pass
    return value


def _nino(chance: random.Random) -> str:
    first, second = chance.choice("ABCEGHJKLMNOPRSTWXYZ"), chance.choice("ABCEGHJKLMNPRSTWXYZ")
    if first + second in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}:
        first = "A"
    number = first + second + fill("######", chance) + chance.choice("ABCD")
    return number if chance.random() < 0.5 else group(number, [2], " ")


def _nhs(chance: random.Random) -> str:
    def make(chance: random.Random) -> str | None:
        body = fill("Z########", chance)
        check = 11 - weighted(body, range(10, 1, -1)) % 11
        return None if check == 10 else body + str(check % 11)

    number = _retry(chance, make)
    return chance.choice([number, group(number, [3, 3, 4], " "), group(number, [3, 3, 4], "-")])


def _ssn(chance: random.Random) -> str:
    area = chance.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{chance.randrange(1, 100):02d}-{chance.randrange(1, 10000):04d}"


def _itin(chance: random.Random) -> str:
    middle = chance.choice([*range(70, 89), 90, 91, 92, *range(94, 100)])
    return f"9{chance.randrange(100):02d}-{middle}-{fill('####', chance)}"


def _steuer_id(chance: random.Random) -> str:
    """Return ten digits of which exactly one comes twice, and a check digit (BZSt)."""
    digits = chance.sample(DIGITS, 9)
    digits.insert(chance.randrange(1, 10), chance.choice(digits))
    body = "".join(digits) if digits[0] != "0" else "".join(digits).translate(str.maketrans("01", "10"))
    number = body + mod_11_10(body)
    return chance.choice([number, group(number, [2, 3], " ")])


def _nir(chance: random.Random) -> str:
    """Return sex, year, month, department, commune, order and key (INSEE)."""
    department = chance.choice([n for n in range(1, 96) if n != 20])
    birth = f"{chance.choice('12')}{chance.randrange(100):02d}{chance.randrange(1, 13):02d}"
    body = f"{birth}{department:02d}{chance.randrange(1, 500):03d}{chance.randrange(1, 1000):03d}"
    number = f"{body}{97 - int(body) % 97:02d}"
    return chance.choice([number, group(number, [1, 2, 2, 2, 3, 3, 2], " ")])


def _birth(chance: random.Random) -> str:
    return f"{chance.randrange(30, 100):02d}{chance.randrange(1, 13):02d}{chance.randrange(1, 29):02d}"


def _dni(chance: random.Random) -> str:
    number = fill("########", chance)
    return number + chance.choice(["", "-"]) + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def _nie(chance: random.Random) -> str:
    lead, number = chance.randrange(3), fill("#######", chance)
    return "XYZ"[lead] + number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(f"{lead}{number}") % 23]


ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)  # A to Z


def _codice_fiscale(chance: random.Random) -> str:
    """Return the sixteen characters of DM 12 March 1974 (names from consonants, a day from 1 or 41)."""
    names = "".join(chance.choices("BCDFGLMNPRSTVZ", k=6))
    day = chance.randrange(1, 29) + chance.choice([0, 40])
    place = chance.choice("ADFHL") + fill("Z##", chance)
    body = f"{names}{chance.randrange(30, 99):02d}{chance.choice('ABCDEHLMPRST')}{day:02d}{place}"
    ranks = [int(c) if c in DIGITS else LETTERS.index(c) for c in body]
    return body + LETTERS[(sum(ODD[rank] for rank in ranks[::2]) + sum(ranks[1::2])) % 26]


def _bsn(chance: random.Random) -> str:
    def make(chance: random.Random) -> str | None:
        body = fill("Z#######", chance)
        check = weighted(body, range(9, 1, -1)) % 11
        return None if check == 10 else body + str(check)

    number = _retry(chance, make)
    return chance.choice([number, group(number, [4, 2, 3], ".")])


def _pesel(chance: random.Random) -> str:
    body = _birth(chance) + fill("####", chance)
    return body + str(-weighted(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10)


def _cpf(chance: random.Random) -> str:
    number = fill("Z########", chance)
    for start in (10, 11):
        number += str(weighted(number, range(start, 1, -1)) * 10 % 11 % 10)
    return number


def _aadhaar(chance: random.Random) -> str:
    def make(chance: random.Random) -> str | None:
        body = fill("N##########", chance)
        number = body + verhoeff_digit(body)
        return None if number == number[::-1] else number

    number = _retry(chance, make)
    return chance.choice([number, group(number, [4], " ")])


def _pan(chance: random.Random) -> str:
    return fill("@@@", chance) + "P" + fill("@", chance) + f"{chance.randrange(1, 10000):04d}" + fill("@", chance)


def _personnummer(chance: random.Random) -> str:
    body = _birth(chance) + fill("###", chance)
    number = f"{body[:6]}-{body[6:]}{luhn_digit(body)}"
    return chance.choice([number, "19" + number])


def _sin(chance: random.Random) -> str:
    body = fill(chance.choice("1234567") + "#######", chance)
    return group(body + luhn_digit(body), [3], chance.choice([" ", "-", ""]))


def _tfn(chance: random.Random) -> str:
    def make(chance: random.Random) -> str | None:
        number = fill("Z########", chance)
        return None if weighted(number, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 else number

    return group(_retry(chance, make), [3], chance.choice([" ", ""]))


def _pps(chance: random.Random) -> str:
    body, second = fill("Z######", chance), chance.choice(["", "A"])
    check = weighted(body, range(8, 1, -1)) + (9 if second else 0)
    return body + "WABCDEFGHIJKLMNOPQRSTUV"[check % 23] + second


NATIONAL_IDS: dict[str, list[Sample]] = {
    "GB": [
        labelled("|NINO|NI number|National Insurance number|", _nino),
        labelled("NHS number|NHS|my nhs number|NHS No", _nhs),
    ],
    "US": [
        labelled("|SSN|social security number|", _ssn),
        labelled("SSN|Social Security|SS#", lambda c: _ssn(c).replace("-", c.choice(["", " "]))),
        labelled("|ITIN|Taxpayer ID", _itin),
    ],
    "DE": [labelled("Steuer-ID|Steueridentifikationsnummer|IdNr|Steuer-Identifikationsnummer|IdNr.", _steuer_id)],
    "FR": [labelled("|numéro de sécurité sociale|NIR|n° de sécurité sociale", _nir)],
    "ES": [labelled("|DNI|NIF", _dni), labelled("|NIE", _nie)],
    "IT": [labelled("|codice fiscale|C.F.", _codice_fiscale)],
    "NL": [labelled("BSN|burgerservicenummer|Burgerservicenummer (BSN)", _bsn)],
    "PL": [labelled("PESEL|numer PESEL|nr PESEL", _pesel)],
    "BR": [
        labelled("|CPF", lambda c: (n := _cpf(c)) and f"{n[:3]}.{n[3:6]}.{n[6:9]}-{n[9:]}"),
        labelled("CPF|CPF do titular", _cpf),
    ],
    "IN": [labelled("Aadhaar|Aadhaar number|UID|aadhar card", _aadhaar), labelled("|PAN|PAN card", _pan)],
    "SE": [
        labelled("|personnummer|pnr", _personnummer),
        labelled("personnummer|Personnr", lambda c: _personnummer(c).replace("-", "")),
    ],
    "CA": [labelled("SIN|social insurance number|S.I.N.", _sin)],
    "AU": [labelled("TFN|tax file number|Tax File Number", _tfn)],
    "IE": [labelled("|PPS number|PPSN", _pps)],
}


def _address(before: str, make: Callable[[random.Random], str], after: str) -> Sample:
    def sample(chance: random.Random) -> tuple[str, str, str]:
        return chance.choice(before.split("|")), make(chance), chance.choice(after.split("|"))

    return sample


def _gb(chance: random.Random) -> str:
    """Return a postcode in one of the six shapes of UPU S42 for GB, spaced or not."""
    area = chance.choice(["CB", "SW", "EC", "M", "B", "LS", "EH", "E", "W", "NR", "CF", "BT", "G"])
    district = fill("Z" if len(area) == 2 and chance.random() < 0.5 else "Z#", chance)
    if area in {"EC", "E", "W", "SW"} and chance.random() < 0.3:
        district = "1" + chance.choice("AW" if area != "SW" else "APVWXY")
    inward = fill("#", chance) + "".join(chance.choices("ABDEFGHJLNPQRSTUWXYZ", k=2))
    return chance.choice(["{} {}", "{} {}", "{}{}"]).format(area + district, inward)


def _ca(chance: random.Random) -> str:
    inner = "ABCEGHJKLMNPRSTVWXYZ"
    outward = chance.choice("ABCEGHJKLMNPRSTVXY") + fill("#", chance) + chance.choice(inner)
    return outward + chance.choice([" ", ""]) + fill("#", chance) + chance.choice(inner) + fill("#", chance)


def _nl(chance: random.Random) -> str:
    letters = "".join(chance.choices("ABCDEFGHJKLMNPRSTVWXZ", k=2))
    letters = "AB" if letters in {"SA", "SD", "SS"} else letters
    return fill("Z###", chance) + chance.choice([" ", ""]) + letters


def _five(chance: random.Random) -> str:
    return f"{chance.randrange(1001, 52999):05d}"


def _zip(chance: random.Random) -> str:
    return f"{chance.randrange(501, 99951):05d}"


def _eircode(chance: random.Random) -> str:
    letters = chance.choices("ACDEFHKNPRTVWXY", k=2)
    return (
        f"{chance.choice(['D02', 'T12', 'H91', 'D6W'])} {letters[0]}{fill('#', chance)}{letters[1]}{fill('#', chance)}"
    )


FIVE = {  # before a city's name, and after a word for it
    "DE": ("Hauptstraße 12, |Am Markt 3, ", " Berlin| Köln", "PLZ |Postleitzahl: "),
    "FR": ("12 rue de la Paix, |3 avenue Foch, ", " Paris| Lyon", "code postal |CP "),
    "ES": ("Calle Mayor 5, ", " Madrid| Sevilla", "código postal |C.P. "),
    "IT": ("Via Roma 12, ", " Roma| Milano", "CAP |CAP: "),
}
POSTCODES: dict[str, list[Sample]] = {
    "GB": [
        _address("|10 High Street, Cambridge |postcode |London ", _gb, ""),
        _address("the postcode is |post code: |postcode : ", lambda c: _gb(c).replace(" ", "").lower(), ""),
    ],
    "US": [
        _address("1 Main St, San Francisco, CA |Austin TX |New York, NY ", _zip, ", USA|"),
        _address("|Denver, CO |ZIP ", lambda c: f"{_zip(c)}-{c.randrange(1, 10000):04d}", ""),
        _address("ZIP code |zip: |Zip Code: |zipcode ", _zip, ""),
    ],
    "CA": [_address("|Ottawa ON |postal code ", _ca, "")],
    "NL": [_address("|Damrak 1, |postcode ", _nl, " Amsterdam|")],
    "IE": [_address("|Eircode |Dublin, ", _eircode, "")],
    "BR": [_address("|CEP |CEP: ", lambda c: fill("Z####-###", c), "")],
    "PL": [_address("ul. Długa 5, |kod pocztowy |Warszawa, ", lambda c: fill("##-###", c), "")],
    "SE": [_address("Storgatan 1, |postnummer ", lambda c: fill("Z## ##", c), " Stockholm| Malmö")],
    "IN": [_address("New Delhi |PIN |PIN code: |Mumbai - ", lambda c: fill(c.choice(["Z#####", "Z## ###"]), c), "")],
    "AU": [_address("Sydney NSW |Melbourne, VIC |Perth WA |postcode ", lambda c: fill("N###", c), "")],
    **{
        region: [_address(streets, _five, cities), _address(words, _five, "")]
        for region, (streets, cities, words) in FIVE.items()
    },
}
