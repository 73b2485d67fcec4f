from __future__ import annotations

from typing import get_args

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from forgeline.config.schema import Repair
from forgeline.data.repair import repair, repair_texts
from forgeline.data.text import normalise

STEPS = get_args(Repair)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("I ' m sorry , I do n't know .", "I'm sorry, I don't know."),
        ("There 's one ( in the east ) .", "There's one (in the east)."),
        (
            "Booking was successful . \n   Reference number is : AB12 .",
            "Booking was successful. Reference number is: AB12.",
        ),
        ("Ca n't you ? We 'll see !", "Can't you? We'll see!"),
        ("The number is \t  01223 \t .", "The number is 01223."),
        ('She said " yes please " , then left .', 'She said "yes please", then left.'),
        ("Your time / day and £ 5 .", "Your time/day and £5."),
        ("Good - bye ... and well - that 's it .", "Good-bye... and well - that's it."),
        ("On a road , . It is 12 .. Well ...", "On a road. It is 12. Well..."),
        ("It costs 23.60 pounds at 05:00 .", "It costs 23.60 pounds at 05:00."),
        ("Is there anything else ?", "Is there anything else?"),
        ("First one .\n\nThen two , please .", "First one.\n\nThen two, please."),
        ("schÃ¶n \u200b\x07gut\u00a0so", "schön gut so"),
        ("Fine.\r\nIt was â€œquotedâ€\x9d, the cafÃ©.", "Fine.\nIt was “quoted”, the café."),
        ("cafe\u0301, \ufb01ne", "café, fine"),
        ("\x1b[31mred\x1b[0m \ufefftext", "red text"),
        ("x &lt; y &amp;amp; z &#233; &nosuch; R&D", "x < y & z é &nosuch; R&D"),
        ("<p>Hello <b>you</b>,<br/>and <a href='x'>them</a>.</p>", "Hello you,\nand them."),
        ("<style>p {}</style><ul><li>one</li><li>two</li></ul><!-- end -->", "one\n\ntwo"),
        ("too   many  spaces \n\n\n\n and lines  ", "too many spaces\n\n and lines"),
    ],
)
def test_dirt_is_repaired_once_and_for_all(dirty: str, clean: str) -> None:
    assert repair(dirty) == clean
    assert repair(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Steps:\n- one\n- two\n\nx = f(a, b)",
        "def f(x):\n    return x",
        "if (a < b) { ls . ; }",
        "a < b and b > c, List<String>, Map<i, b>, mail <a@b.c>",
        "Write `<br>` or\n```html\n<p>text &amp; more .</p>\n```",
        "Tu viens ? Non, pas ce soir ! Où est-ce ?",
        "你好，世界！ “Don’t”, she said…",
        "👩\u200d💻 fine, 🏴\U000e0067\U000e0062\U000e007f and \U0001fae8",
        "می\u200cخواهم",
        "One stray mark . But this text, all of it, was typed by hand. It is long, it has commas, and it has points.",
    ],
)
def test_what_is_not_broken_stays(text: str) -> None:
    assert repair(text) == text


def test_only_the_named_steps_are_taken() -> None:
    text = "<b>cafÃ©</b>  is open ."
    assert repair(text, ["encoding"]) == "<b>café</b>  is open ."
    assert repair(text, ["html", "spaces"]) == "cafÃ© is open ."
    assert repair(text, []) == text


SIGNS = "I ' m n't n t . , ? ! ; .. ( ) \" / & < > ` ``` { f(x) le l' mot é Ã© â€™ Ã à œ 中文 ， “ ’"
MARKUP = "&amp; &lt; &#769; &#x80; <b> </b> <br/> <p\tclass=x> <script> </script> <!-- -->"
PIECES = [
    *f"{SIGNS} {MARKUP}".split(" "),
    *(" ", "  ", "\n", "\n\n", "\t", "\r", "\r\n", "\x1c", "\x1f", "\x85", "\xa0", "Â ", "\u2028", "\u200b", "\ufeff"),
    *("e\u0301", "\u0915\u094d", "\u05b0", "\ufb01", "\ue000", "\U0001fae8", "\x1b[3m"),
]
MOJIBAKE = some.text().map(lambda text: text.encode("utf-8", "ignore").decode("windows-1252", "replace"))
DIRT = some.lists(some.sampled_from(PIECES), max_size=25)
TEXTS = some.one_of(some.text(), MOJIBAKE, DIRT.map("".join), DIRT.map(" ".join))


@settings(max_examples=150, deadline=None)
@given(some.lists(TEXTS, max_size=12), some.sampled_from([STEPS, *((step,) for step in STEPS)]))
def test_a_batch_is_repaired_as_its_texts_are_and_repairing_again_changes_nothing(
    texts: list[str], steps: tuple[Repair, ...]
) -> None:
    repaired = [repair(text, steps) for text in texts]
    assert repair_texts(polars.Series([*texts, None], dtype=polars.String), steps).to_list() == [*repaired, None]
    assert [repair(text, steps) for text in repaired] == repaired


def test_normalise_ignores_case_spacing_and_sentence_marks_only() -> None:
    assert normalise("Hello,  World!") == normalise("hello world.") == "hello world"
    assert normalise("2+2?") != normalise("2-2?")
    assert normalise("23.60") != normalise("2360")
    assert normalise("!!!") and normalise("!!!") != normalise("???")
