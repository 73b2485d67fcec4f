from __future__ import annotations

import pytest

from forgeline.data.text import normalise, repair


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
        ("schÃ¶n \u200b\x07gut\u00a0so", "schön gut so"),
        ("cafe\u0301", "café"),
        ("&lt;b&gt;", "<b>"),
    ],
)
def test_dirt_is_repaired_once_and_for_all(dirty: str, clean: str) -> None:
    assert repair(dirty) == clean
    assert repair(clean) == clean


def test_text_that_no_tokeniser_touched_keeps_its_lines() -> None:
    code = "Steps:\n- one\n- two\n\nx = f(a, b)"
    assert repair(code) == code


def test_joined_emoji_and_scripts_survive() -> None:
    for text in ("👩\u200d💻 fine", "می\u200cخواهم"):
        assert repair(text) == text


def test_normalise_ignores_case_spacing_and_sentence_marks_only() -> None:
    assert normalise("Hello,  World!") == normalise("hello world.") == "hello world"
    assert normalise("2+2?") != normalise("2-2?")
    assert normalise("23.60") != normalise("2360")
    assert normalise("!!!") and normalise("!!!") != normalise("???")
