"""Sentences without personal data that look as if they had some: numbers, codes, times, hashes, markup."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable

from forgeline.data.pii.planted.arithmetic import DIGITS, fill, group, iban_check, luhn_digit

Make = Callable[[random.Random], str]

# One sentence a line; # is a digit.
NUMBERS = """
order number ############ has shipped
order #########
your order no. 00######## is ready
invoice INV-20##-00###
ticket ######## was closed
tracking 1Z5##WX############## left the depot
tracking number 9400##################
article 10.1016/j.cell.20##.0#.0##
SKU ###-####-##B
part no. 7##-####-#
serial QX######
model XR-##00
it costs 3#.## pounds
a total of $4,###,###.##
EUR 2#.###.###,##
£1##.##
USD 3########
Rs 4#,##,###
5### ### ### people
population 7 ### ###
6#,###,### views
about 4########## stars
2 147 483 647 is the largest
299 792 458 m/s
pi is 3.14159265358979
6.02214076e23
1e-10 and 0x7fff5fbff8c0
x = ###### * ####
51.#### , -0.####
40.7### N 74.0### W
1920x1080x32
120/80 mmHg, 1013.25 hPa
room 0###
152 - 154 Hills Road
score 6-4 7-6 3-6
1 2 3 4 5 6 7 8 9 10 11 12
1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89
0 1 1 2 3 5 8 13 21 34
epoch 17########
at 17########### ms
binary 0101 1100 1010 1111
years 1990-2020 and 2019-2024
pages 100-200
flight BA2### at gate B12
flight UA 1### to LHR
train TR####
train TR#### leaves
the A14 and the M25
lot 20##-##-####B
case 1:23-cv-0####
ISO 13616-1:2020 and RFC 5321
CVE-2024-#####
HTTP 404 after ### ms
version 1.2.#
version 4.1#.0.3
v10.##.2.1 of the firmware
Chrome/120.0.6###.109
Python 3.11.#
release 2.#.1
section 10.4.2.1.9
section 3.2.1.4
build 10.0.19045.3###
SNMP 1.3.6.1.4.1.8072.3.2.10
step 1.2.3.4.5
a ratio of 3:2:1
John 3:16 and Acts 2:1-4
std::vector<int> v
a::b::c
Foo::Bar::#
01:23:45,678 --> 01:23:48,900
MAC 00:1A:2B:3C:4D:##
AA:BB:CC:DD:EE:##
width: ##0px; top: ##.5em
10,000,000 rows x 32
@handle said hi
name@host
lodash@4.17.##
react@18.2.0
@dataclass(frozen=True)
@types/node@20.#.#
git@github.com:org/repo.git
me @ home
a@b
price@4#.##
see https://example.com/a?id=######&page=2
http://localhost:8080/path
https://example.org/@user/posts/##########
ssh://git@example.com/repo
ratio :: value
the ticket is #### #### to ####
GPS week 2### day #
ASIN B0########
UPC 0 12345 67890 5
EAN 40######## ##
barcode 50##########
registration AB## CDE
grid ref TL 45# 58#
account code 4000-200-###
PO 45########
meter reading 0###### kWh
batch 2024#########
seat ##A
bus 0## at stop ######
phone model 3310
area 51
case no 200#-######-##
id ##########
user id: #########
Match ID ##########
reference number is : 0000####
"""
WORDS = """
password = None
password: ********
password: required
the password is wrong
api_key = os.environ['API_KEY']
token = get_token(user)
secret: true
primary key: customer_id
the secret is out
key: value
PASSWORD=${DB_PASSWORD}
password: <your password>
api_key=YOUR_API_KEY
token: string
max_tokens=512
tokens: 1024
key = sorted(items)
Authorization: Bearer <token>
forgot your password? reset it
keyboard=qwerty
sk-learn and task-based
secret = input('secret: ')
token_type=bearer
-----BEGIN PUBLIC KEY-----
-----BEGIN CERTIFICATE-----
password: string;
the company was born in 2011
birthday party on saturday at 5
born in Paris
she was born in the 1980s
born to run
{{ customer.email }} and #HOTEL-PHONE#
123 easy steps
call 999
dial 112
call 24/7
text STOP to 60777
There are 23 trains on Monday.
it is 4 stars and free wifi
arrive by 10:15 on platform 7
table for 4 at 18:30
[EMAIL] or [PHONE]
call [PHONE] about card [CARD]
A4 paper, B5 envelopes
Mercedes C63 AMG, BMW M3
vitamin B12 and omega 3
"""


def _hex(length: int, chance: random.Random) -> str:
    return "".join(chance.choices(string.hexdigits[:16], k=length))


def _isbn13(chance: random.Random) -> str:
    body = "978" + fill("#########", chance)
    check = -sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body)) % 10
    return group(body + str(check), [3, 1, 4, 4, 1], chance.choice(["-", " ", ""]))


def _isbn10(chance: random.Random) -> str:
    body = fill("0########", chance)
    check = -sum(int(digit) * (10 - place) for place, digit in enumerate(body)) % 11
    return group(body + ("X" if check == 10 else str(check)), [1, 3, 5, 1], chance.choice(["-", " "]))


def _wrong(digit: str) -> str:
    return DIGITS[(int(digit) + 1) % 10]


def _failed_card(chance: random.Random) -> str:
    body = fill("4##############", chance)
    return group(body + _wrong(luhn_digit(body)), [4], chance.choice([" ", "-", ""]))


def _failed_iban(chance: random.Random) -> str:
    account = fill("@@@@##############", chance)
    check = iban_check("GB", account)
    return group("GB" + check[0] + _wrong(check[1]) + account, [4], chance.choice([" ", ""]))


def _imei(chance: random.Random) -> str:
    body = fill("35############", chance)
    return body + luhn_digit(body)


def _date(chance: random.Random) -> str:
    year, month, day = chance.randrange(1950, 2030), chance.randrange(1, 13), chance.randrange(1, 29)
    forms = ("{y}-{m:02d}-{d:02d}", "{d:02d}/{m:02d}/{y}", "{d}.{m}.{y}", "{m:02d}-{d:02d}-{y}", "{y}{m:02d}{d:02d}")
    return chance.choice([*forms, "{d:02d} {m:02d} {y}"]).format(y=year, m=month, d=day)


def _time(chance: random.Random) -> str:
    return f"{chance.randrange(24):02d}:{chance.randrange(60):02d}"


def _ref(chance: random.Random) -> str:
    return "".join(chance.choices(string.ascii_uppercase + DIGITS, k=8))


MADE: list[Make] = [
    lambda c: f"reference number {_ref(c)}",
    lambda c: f"your reference number is : {_ref(c)} .",
    lambda c: f"booking {_ref(c)}",
    lambda c: f"on {_date(c)} at {_time(c)}",
    lambda c: f"between {_date(c)} and {_date(c)}",
    lambda c: f"published {_date(c)}",
    lambda c: f"{_date(c)}T{_time(c)}:00Z",
    lambda c: f"founded on {_date(c)}",
    lambda c: f"expires {_date(c)}",
    lambda c: f"trains at {' '.join(_time(c) for _ in range(6))}",
    lambda c: f"the train leaves {_time(c)} and arrives {_time(c)}:30",
    lambda c: f"ISBN {_isbn13(c)}",
    lambda c: f"ISBN-13: {_isbn13(c)}",
    lambda c: f"ISBN {_isbn10(c)}",
    lambda c: f"IMEI {_imei(c)}",
    lambda c: f"{_failed_card(c)} fails its check digit",
    lambda c: f"number {_failed_card(c)}",
    lambda c: f"{_failed_iban(c)} is not valid",
    lambda c: f"commit {_hex(40, c)}",
    lambda c: f"commit {_hex(7, c)}",
    lambda c: f"md5 {_hex(32, c)}",
    lambda c: f"sha256: {_hex(64, c)}",
    lambda c: f"uuid {uuid.UUID(int=c.getrandbits(128))}",
    lambda c: f"id={uuid.UUID(int=c.getrandbits(128))}",
    lambda c: f'etag "{_hex(32, c)}"',
    lambda c: f"at 0x{_hex(12, c)}",
    lambda c: f"trace {_hex(32, c)}-{_hex(16, c)}",
    lambda c: f"data:image/png;base64,iVBORw0KGgo{_hex(30, c)}",
    lambda c: f"color: #{_hex(6, c)}; key: value",
]


def _of(sentence: str, marks: bool) -> Make:
    return lambda chance: "".join(chance.choice(DIGITS) if marks and c == "#" else c for c in sentence)


FORMS: list[Make] = [
    *(_of(sentence, True) for sentence in NUMBERS.strip().splitlines()),
    *(_of(sentence, False) for sentence in WORDS.strip().splitlines()),
    *MADE,
]
