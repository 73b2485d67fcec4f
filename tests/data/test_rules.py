from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from pydantic import ValidationError

from forgeline.config.schema import Rule
from forgeline.data.rules import check, failing, measure, toxicity_scores, words
from forgeline.data.rules.toxicity import corpus, train
from forgeline.errors import ConfigError


def measured(text: str, **rule: Any) -> float:
    return float(measure(Rule(max=0, **rule), polars.Series([text]))[0])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("chars", "naïve 😀", 7),
        ("words", "  two\u00a0words\n", 2),
        ("words", "", 0),
        ("word_chars", "ab abcd", 3),
        ("symbols", "a!b? हिन्दी", 2 / 11),
        ("digits", "a1 ٣", 0.5),
        ("capitals", "ABcd 12", 0.5),
        ("capitals", "123", 0),
        ("repeated_words", "a b c d", 0),
        ("repeated_words", "so it is so it is so it is", 4 / 7),
        ("repeated_lines", "one\n  one\n\ntwo\none  ", 0.5),
    ],
)
def test_a_measure_is_what_its_name_says(name: str, text: str, value: float) -> None:
    assert measured(text, measure=name) == pytest.approx(value)


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0


def repeats(items: list[Any]) -> float:
    return ratio(sum(count - 1 for count in Counter(items).values()), len(items))


# Each measure again, as plainly as it can be said.
PLAIN: dict[str, Callable[[str], float]] = {
    "chars": len,
    "words": lambda text: len(text.split()),
    "word_chars": lambda text: ratio(len("".join(text.split())), len(text.split())),
    "symbols": lambda text: ratio(
        sum(unicodedata.category(one)[0] not in "LMNZ" and not one.isspace() for one in text), len(text)
    ),
    "digits": lambda text: ratio(sum(unicodedata.category(one)[0] == "N" for one in text), len(text)),
    "capitals": lambda text: ratio(
        sum(unicodedata.category(one) in {"Lu", "Lt"} for one in text),
        sum(unicodedata.category(one)[0] == "L" for one in text),
    ),
    "repeated_words": lambda text: repeats(
        [tuple(found[at : at + 3]) for found in [re.findall(r"\S+", text, re.A)] for at in range(len(found) - 2)]
    ),
    "repeated_lines": lambda text: repeats(
        [line for line in (re.sub(r"[ \t]", " ", one).strip(" ") for one in text.split("\n")) if line]
    ),
}
WORDS = some.lists(
    some.sampled_from(["a", "b", "It", "is", "Ünï", "४२", "3", "!", "—", " ", "\n", "\t", "\n \n", "😀"])
)


@settings(max_examples=100, deadline=None)
@given(some.lists(some.one_of(some.text(some.characters(exclude_categories=["Cs", "Cc"])), WORDS.map("".join),
                              WORDS.map(" ".join)), min_size=1))  # fmt: skip
def test_the_compiled_measures_agree_with_plain_python(texts: list[str]) -> None:
    for name, plain in PLAIN.items():
        values = measure(Rule(measure=name, max=0), polars.Series(texts))
        assert values.dtype == polars.Float64
        assert values.to_list() == pytest.approx([plain(text) for text in texts]), name


def test_a_pattern_is_counted_and_shown() -> None:
    rule = Rule(measure="pattern", pattern="#[A-Z]+#", max=0)
    texts = polars.Series(["fine", "#A# and #B#"])
    assert measure(rule, texts).to_list() == [0, 2]
    assert failing({"placeholder": rule}, texts, texts, texts).detail.to_list() == [
        None,
        "pattern 2, above 0: '#A#'",
    ]


@pytest.mark.parametrize("pattern", [r"a(?=b)", r"(?<!a)b", r"(\w)\1"])
def test_patterns_that_look_elsewhere_are_refused_with_the_configuration(pattern: str) -> None:
    with pytest.raises(ValidationError, match="look-around and back-references"):
        Rule(measure="pattern", pattern=pattern, max=0)


def test_what_cannot_be_measured_is_said_before_the_first_row() -> None:
    with pytest.raises(ConfigError) as fault:
        check(
            {
                "open": Rule(measure="pattern", pattern="(", max=0),
                "tongue": Rule(measure="language", languages=["en", "enn"], min=0.5),
                "fine": Rule(measure="profanity", max=0),
            }
        )
    assert [line.partition(":")[0] for line in str(fault.value).splitlines()] == [
        "data.clean.rules.open",
        "data.clean.rules.tongue",
    ]


def test_languages_are_told_apart_from_twenty_letters_on() -> None:
    english = "The train leaves at nine, and arrives in Cambridge an hour later."
    german = "Der Zug fährt um neun ab und kommt eine Stunde später in Cambridge an."
    for text, expected in ((english, 1), (german, 0), ("Danke!", 1), ("01223 456789 " * 5, 1)):
        assert measured(text, measure="language", languages=["en"]) == pytest.approx(expected, abs=0.2), text
    assert measured(german, measure="language", languages=["en", "de"]) > 0.8


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Scunthorpe, Penistone, cocktails, a shiitake assassin; Arsenal in class", 0),
        ("Fuck this SHIT.", 2),
        ("**fucking** f*ck mother-fucker's sh1t", 4),
        ("The bastard’s shit’s gone: “bollocks”", 3),
        ("", 0),
    ],
)
def test_profane_words_are_whole_words(text: str, count: int) -> None:
    assert measured(text, measure="profanity") == count


def test_a_text_is_as_toxic_as_its_worst_sentence_and_civil_words_do_not_hide_it() -> None:
    civil, toxic = "Thank you for calling. How may I help?", "You are a stupid asshole."
    low, high, both, buried = toxicity_scores([civil, toxic, f"{civil} {toxic}", f"{civil} " * 50 + toxic])
    assert low < 0.3
    assert high > 0.9
    assert high == both == buried


IDENTITIES = words.IDENTITIES.split()


@settings(max_examples=60, deadline=None)
@given(
    some.lists(some.sampled_from(["the", "person", "is", "stupid", "nice", "asshole", ".", "!", "\n", "{}", "{}"])),
    some.sampled_from(IDENTITIES),
    some.sampled_from(IDENTITIES),
)
def test_no_identity_in_anothers_place_changes_a_score(form: list[str], one: str, other: str) -> None:
    sentence = " ".join(form)
    scores = toxicity_scores([sentence.replace("{}", term) for term in (one, other, "")])
    assert scores.n_unique() == 1


def test_identities_of_ones_own_are_masked_too() -> None:
    texts = ["a gamer dude", "a gamer"]
    assert toxicity_scores(texts).n_unique() == 2
    assert toxicity_scores(texts, identities=["dude"]).n_unique() == 1


def test_correction_closes_the_gaps_between_groups_and_keeps_the_skill() -> None:
    neutral = [form.format(term) for form in words.TEMPLATES for term in words.DESCRIPTIONS.split()]
    texts, toxic = corpus()
    held = numpy.arange(len(texts)) % 5 == 0  # the corpus is in the order of its digests
    skill, gap = {}, {}
    for corrected in (False, True):
        model = train(texts.filter(~held), toxic[~held], corrected)
        score = model.scorer()
        scores = score(texts.filter(held))
        skill[corrected] = (scores[toxic[held]] >= 0.9).mean() - (scores[~toxic[held]] >= 0.9).mean()
        by_group = score(polars.Series(neutral)).reshape(len(words.TEMPLATES), -1)
        gap[corrected] = float(numpy.ptp(by_group, axis=1).max())
    assert gap[False] > 0.3 and gap[True] == 0
    assert skill[True] > 0.6 and abs(skill[True] - skill[False]) < 0.03


def test_the_first_rule_in_order_takes_a_row_and_dry_rules_take_none() -> None:
    rules = {
        "short": Rule(measure="chars", min=3),
        "digits": Rule(measure="digits", max=0.5, dry_run=True),
        "shouting": Rule(measure="capitals", max=0.9),
        "empty_prompt": Rule(measure="words", over="prompt", min=1),
    }
    completion = polars.Series(["A", "1234", "ABCD", "fine", "fine", "12"])
    prompt = polars.Series(["x", "x", "", "", "x", "x"])
    verdicts = failing(rules, completion, prompt, completion + prompt)
    assert verdicts.rule.to_list() == ["short", None, "shouting", "empty_prompt", None, "short"]
    assert verdicts.detail.to_list()[:3] == ["chars 1, below 3", None, "capitals 1, above 0.9"]
    assert verdicts.score.to_list() == [1, None, 1, 0, None, 2]
    assert verdicts.dry == {"digits": 1}
    none = polars.Series([], dtype=polars.String)
    assert len(failing(rules, none, none, none).rule) == 0
