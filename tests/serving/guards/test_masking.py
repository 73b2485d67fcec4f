"""What is personal goes to the model as tags, and comes back to who sent it."""

from __future__ import annotations

import asyncio

import pytest
from guarded import engine, exchange, guards, said, sent
from hypothesis import given, settings
from hypothesis import strategies as st

from forgeline.data.pii.planted import plant
from forgeline.serving.gateway.guards import Masks
from forgeline.serving.gateway.guards.masks import Restorer
from forgeline.serving.gateway.guards.personal import PersonalData

KINDS = ("email", "phone", "card", "iban", "ip", "national_id")
PII = guards(pii={"action": "mask"})
MAIL, PHONE = "jo.ward@example.org", "01223 358966"


def told(one) -> list[str]:
    return [message["content"] for message in one.request.messages]


def test_a_value_has_one_tag_in_all_messages_and_another_value_another() -> None:
    one = exchange(
        f"Mail {MAIL} or call {PHONE}.", f"I mail {MAIL}.", f"Rather {MAIL} than a@example.org", stop=(MAIL,)
    )
    masks = asyncio.run(PII.inbound(one))
    assert told(one) == ["Mail [EMAIL_1] or call [PHONE_1].", "I mail [EMAIL_1].", "Rather [EMAIL_1] than [EMAIL_2]"]
    assert one.request.stop == ("[EMAIL_1]",)
    assert masks.values == {"[EMAIL_1]": MAIL, "[PHONE_1]": PHONE, "[EMAIL_2]": "a@example.org"}
    assert [(v.guard, v.action, v.detail) for v in one.verdicts] == [("pii", "mask", "email ×5, phone")]


def test_a_value_that_only_its_company_betrays_is_masked_wherever_it_stands() -> None:
    one = exchange("my ssn: 536 22 8123", "noted", "as I said, 536 22 8123!")
    asyncio.run(PII.inbound(one))
    assert "8123" not in "".join(told(one))


@pytest.mark.parametrize(
    "disguised", ["jo\u200b.ward@exam\u00adple.org", "ｊｏ.ward@example.org", "jo.wаrd@example.org"]
)
def test_what_cannot_be_seen_hides_nothing(disguised: str) -> None:
    one = exchange(f"mail {disguised} please")
    masks = asyncio.run(PII.inbound(one))
    assert told(one) == ["mail [EMAIL_1] please"] and masks.values == {"[EMAIL_1]": disguised}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_reply_is_restored_however_it_is_cut(size: int) -> None:
    text = "To [EMAIL_1], [EMAIL_9] and [EMAIL_1]: [see [PHONE_1] or [PHO"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    one = exchange(f"{MAIL} {PHONE}")
    assert said(sent(PII, one, *pieces)) == f"To {MAIL}, [EMAIL_9] and {MAIL}: [see {PHONE} or [PHO"
    assert one.reply == text and MAIL not in repr(one)


def test_no_more_than_a_tag_waits() -> None:
    masks = Masks()
    masks.tag("email", MAIL)
    restorer = Restorer(masks)
    assert [restorer.feed(part) for part in ("a [", "x] [EMAIL", "_1", "]!", " [EMAIL_")] == [
        "a ", "[x] ", "", f"{MAIL}!", " "
    ]  # fmt: skip
    assert restorer.feed("", last=True) == "[EMAIL_"


def test_nobody_elses_tags_are_restored() -> None:
    asyncio.run(PII.inbound(exchange(MAIL)))
    assert said(sent(PII, exchange("What is [EMAIL_1]?"), "It is [EMAIL_1].")) == "It is [EMAIL_1]."


def test_a_tag_that_a_caller_wrote_stays_text() -> None:
    one = exchange(f"[EMAIL_1] is a tag, {MAIL} is not")
    assert said(sent(PII, one, "[EMAIL_1] and [EMAIL_2]")) == f"[EMAIL_1] and {MAIL}"


@pytest.mark.parametrize(
    ("asked", "replied"),
    [
        (f"call {PHONE}", f"It is {PHONE}."),
        (f"call {PHONE} or 01223 462354", "It is [PHONE]."),
        (f"call {PHONE}, not [PHONE]", "It is [PHONE]."),
        (MAIL, "It is [PHONE]."),
    ],
)
def test_a_tag_without_its_number_stands_for_the_only_value_of_its_kind(asked: str, replied: str) -> None:
    """As the data line writes tags, a model may have learned them."""
    assert said(sent(PII, exchange(asked), "It is [PHO", "NE].")) == replied


def test_many_at_once_keep_their_own() -> None:
    async def ask(number: int) -> str:
        one = exchange(f"I am user{number}@example.org")
        masks = await PII.inbound(one)
        await asyncio.sleep(0)
        return said([piece async for piece in PII.outbound(one, engine("Hi [EMA", "IL_1]!"), masks)])

    async def all_() -> list[str]:
        return await asyncio.gather(*(ask(number) for number in range(50)))

    assert asyncio.run(all_()) == [f"Hi user{number}@example.org!" for number in range(50)]


def test_what_the_model_makes_up_is_sent_but_not_kept() -> None:
    one = exchange("Who can help?")
    assert said(sent(PII, one, f"Ask {MAIL}.")) == f"Ask {MAIL}."
    assert one.reply == "Ask [EMAIL]."


PIECES = st.lists(
    st.one_of(
        st.sampled_from([one.text for one in plant((*KINDS, "secret", "url_credentials"), ("GB", "US"), seed=8)]),
        st.text(max_size=30),
        st.sampled_from(["\u200b", "\u202e", "0" * 40, "@", "а", "[", "]", "[EMAIL_1]", "key=", "+44 ", "\r\n"]),
    ),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(PIECES, min_size=1, max_size=3))
def test_masking_and_restoring_is_nothing_and_leaves_nothing(texts: list[str]) -> None:
    on = guards(pii={"action": "mask"}, secrets={"action": "mask"})
    one = exchange(*texts)
    masks = asyncio.run(on.inbound(one))
    assert [masks.restored(text) for text in told(one)] == texts
    personal = PersonalData(KINDS, ("GB", "US"))
    assert not [text for text in told(one) if personal.find(text)]
