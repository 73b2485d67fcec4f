from __future__ import annotations

import pytest

from forgeline.data import pii

PLANTED = [
    ("write to jo.smith+x@mail.example.co.uk today", "write to [EMAIL] today"),
    ("call 01223 315702 now", "call [PHONE] now"),
    ("call (01223) 315702, or 07630755937.", "call [PHONE], or [PHONE]."),
    ("ring +44 20 7946 0958 or +44 (0)20 7946 0958", "ring [PHONE] or [PHONE]"),
    ("from abroad 0049 30 901820", "from abroad [PHONE]"),
    ("in the US: (555) 234-5678 or 555-234-5678", "in the US: [PHONE] or [PHONE]"),
    ("card 4111 1111 1111 1111 expires", "card [CARD] expires"),
    ("card 5500005555555559", "card [CARD]"),
    ("pay to GB82 WEST 1234 5698 7654 32 AND more", "pay to [IBAN] AND more"),
    ("pay to DE89370400440532013000.", "pay to [IBAN]."),
    ("from 192.168.10.254 and 2001:db8::ff00:42:8329", "from [IP] and [IP]"),
]
HARMLESS = [
    "leaves at 05:00, arrives at 10:30:00, on 2026-11-22 or 22/11/2026",
    "it costs 23.60 pounds, 1,234,567.89 in all, or 1 000 000",
    "train TR7075, reference FRGZWQL2, booking 00000912",
    "card-like 4111 1111 1111 1112 fails its check digit",
    "GB82 WEST 1234 5698 7654 33 fails too",
    "152 - 154 Hills Road, cb21dp, room 0123",
    "version 1.2.3, section 10.4.2.1.9, 300.1.2.3, std::vector, a ratio of 3:2:1",
    "order 123456789012345678901234567890",
    "name@host and @handle",
    "ISBN 0-306-40615-2 and 978-3-16-148410-0",
]


@pytest.mark.parametrize(("text", "masked"), PLANTED)
def test_planted_data_are_masked(text: str, masked: str) -> None:
    assert pii.mask(text, pii.KINDS)[0] == masked
    assert pii.find(masked) == []


@pytest.mark.parametrize("text", HARMLESS)
def test_hard_negatives_stay(text: str) -> None:
    assert pii.mask(text, pii.KINDS) == (text, [])


def test_only_the_kinds_asked_for_are_masked() -> None:
    assert pii.mask("a@b.org or 01223315702", ["phone"]) == ("a@b.org or [PHONE]", ["phone"])
