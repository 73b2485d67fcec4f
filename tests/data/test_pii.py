from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgeline.config.schema import Pii, PiiKind
from forgeline.data.pii import Finder, Masker, measure
from forgeline.data.pii.planted import plant
from forgeline.errors import ConfigError

KINDS: list[Any] = list(get_args(PiiKind))
REGIONS = ["GB", "US", "CA", "DE", "FR", "ES", "IT", "NL", "PL", "BR", "IN", "SE", "AU", "IE"]
EVERYTHING = Pii(kinds=KINDS, regions=REGIONS)
KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def everywhere() -> Finder:
    return Finder(EVERYTHING, Path())


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    return [sentence.text for sentence in plant(KINDS, REGIONS, seed=5)]


def masked(text: str, config: Pii | None = None, root: Path | None = None) -> str:
    return str(Masker(config or Pii(), root or Path()).mask(polars.Series([text]))[0][0])


def column(*texts: str | None) -> polars.Series:
    return polars.Series(texts, dtype=polars.String)


@pytest.mark.parametrize("config", [Pii(), EVERYTHING], ids=["shipped", "everything"])
def test_recall_and_precision_on_the_planted_set_reach_the_bar(config: Pii) -> None:
    measured = measure(config)
    assert measured["overall"]["planted"] >= 2000
    assert measured["sentences"]["without"] >= 2000
    assert measured["overall"]["recall"] >= 0.99
    assert measured["overall"]["precision"] >= 0.98
    for kind in config.kinds:
        assert measured["kinds"][kind]["recall"] >= 0.97, kind
        assert measured["kinds"][kind]["precision"] >= 0.97, kind


def test_the_measurement_repeats_and_names_the_regions_it_cannot_judge() -> None:
    config = Pii(kinds=["phone", "national_id", "postcode"], regions=["GB", "JP"])
    assert measure(config) == measure(config)
    assert measure(config)["not_covered"] == {"national_id": ["JP"], "postcode": ["JP"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jo.smith+x@mail.example.co.uk today", "write to [EMAIL] today"),
        ("call (01223) 315702, or 07630755937.", "call [PHONE], or [PHONE]."),
        ("their number is 01223315702 .", "their number is [PHONE] ."),
        ("ring +44 (0)20 7946 0958 or 0049 30 901820", "ring [PHONE] or [PHONE]"),
        ("020 7946 0958 0121 496 0123", "[PHONE] [PHONE]"),
        ("in the US: (555) 234-5678 or 555-234-5678", "in the US: [PHONE] or [PHONE]"),
        ("card 4111 1111 1111 1111 123", "card [CARD] 123"),
        ("pay to GB82 WEST 1234 5698 7654 32 AND more", "pay to [IBAN] AND more"),
        ("from 192.168.10.254 and 2001:db8::ff00:42:8329", "from [IP] and [IP]"),
        ("https://bob:hunter2@db.example.com:5432/app", "https://[URL_CREDENTIALS]@db.example.com:5432/app"),
        (
            "https://x.example/v1?page=2&api_key=Zx81kkQp3a&q=1",
            "https://x.example/v1?page=2&api_key=[URL_CREDENTIALS]&q=1",
        ),
        ('DB_PASSWORD="tr0ub4dor&3"', 'DB_PASSWORD="[SECRET]"'),
        ("my ni number is ab123456c", "my ni number is [NATIONAL_ID]"),
    ],
)
def test_personal_data_are_replaced_and_what_is_around_them_stays(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "leaves at 05:00, arrives at 10:30:00, on 2026-11-22 or 22/11/2026",
        "reference number is : 00000912 , train TR4427 leaves 05:45 , 16.50 pounds",
        "booking 7GAWK763 at cb21ab, 152 - 154 Hills Road, room 0123, bus 012",
        "4111 1111 1111 1112 and GB82 WEST 1234 5698 7654 33 fail their checks",
        "version 1.2.3, section 10.4.2.1.9, 300.1.2.3, localhost 127.0.0.1, std::vector, a ratio of 3:2:1",
        "order 123456789012345678901234567890, order number 2125550123, ISBN 978-3-16-148410-0",
        "name@host, @handle, git@github.com:org/repo, lodash@4.17.21",
        "token = get_token(user), password: required, commit 3f2a9c1d5e6b7a8f9c0d1e2f3a4b5c6d7e8f9a0b",
        "[EMAIL] or [PHONE_qxkzvmwpyrtb]",
    ],
)
def test_hard_negatives_stay(text: str) -> None:
    assert masked(text) == text


def test_only_the_kinds_asked_for_are_replaced_and_counted() -> None:
    texts = column("a@b.org or 01223315702", None, "nothing")
    out, counts = Masker(Pii(kinds=["phone"]), Path()).mask(texts)
    assert out.to_list() == ["a@b.org or [PHONE]", None, "nothing"]
    assert counts == Counter(phone=1)
    assert Masker(Pii(kinds=[]), Path()).mask(texts)[0].to_list() == texts.to_list()


def test_no_planted_text_escapes_the_gates(everywhere: Finder, sentences: list[str]) -> None:
    texts = column(*sentences)
    for group in everywhere.recognisers.values():
        for one in group:
            hits = [row for row, text in enumerate(sentences) if any(True for _ in one.find(text))]
            for gate in one.gates:
                assert texts[hits].str.contains(gate).all(), (one.kind, gate)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_text_escapes_the_gates(everywhere: Finder, sentences: list[str], data: st.DataObject) -> None:
    """Pieces of planted texts, with anything between them."""
    text = data.draw(_mixture(sentences))
    for group in everywhere.recognisers.values():
        for one in group:
            if any(True for _ in one.find(text)):
                assert all(column(text).str.contains(gate).all() for gate in one.gates), (one.kind, one.gates)


def test_one_text_is_searched_like_a_column(everywhere: Finder, sentences: list[str]) -> None:
    found = everywhere.find(column(*sentences))
    assert [everywhere.find_in(text) for text in sentences] == [found.get(row, []) for row in range(len(sentences))]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_text_is_searched_like_a_column(everywhere: Finder, sentences: list[str], data: st.DataObject) -> None:
    text = data.draw(_mixture(sentences))
    assert everywhere.find_in(text) == everywhere.find(column(text)).get(0, [])


@pytest.mark.parametrize("replace", ["tag", "pseudonym", "remove"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_masking_leaves_nothing_to_find(replace: Any, sentences: list[str], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGELINE_PSEUDONYM_KEY", KEY)
        masker = Masker(EVERYTHING.model_copy(update={"replace": replace}), Path())
    texts = column(*data.draw(st.lists(_mixture(sentences), min_size=8, max_size=8)))
    once, _ = masker.mask(texts)
    assert not masker.count(once)
    assert masker.mask(once)[0].to_list() == once.to_list()


def _mixture(sentences: list[str]) -> st.SearchStrategy[str]:
    piece = st.builds(
        lambda text, start, end: text[start : len(text) - end],
        st.sampled_from(sentences),
        st.integers(0, 12),
        st.integers(0, 12),
    )
    return st.lists(st.one_of(piece, st.text(max_size=8)), max_size=4).map("".join)


def test_a_pseudonym_is_the_same_for_every_writing_of_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGELINE_PSEUDONYM_KEY", KEY)
    config = Pii(replace="pseudonym")
    phones = masked("01223 315702, +44 1223 315702, (01223) 315702, 0044 1223 315702, 01223 315703", config)
    first, *same, other = re.findall(r"\[PHONE_[a-z]{12}\]", phones)
    assert same == [first] * 3
    assert other != first
    assert masked("Jo@Example.org", config) == masked("jo@example.org", config)
    monkeypatch.setenv("FORGELINE_PSEUDONYM_KEY", KEY[::-1])
    assert masked("jo@example.org", config) != masked("jo@example.org", config.model_copy(update={"kinds": ["phone"]}))
    assert re.findall(r"\[PHONE_[a-z]{12}\]", masked("01223 315702", config)) != [first]


@pytest.mark.parametrize(("key", "state"), [(None, "not set"), ("short", "too short")])
def test_pseudonyms_need_a_key(monkeypatch: pytest.MonkeyPatch, key: str | None, state: str) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    if key:
        monkeypatch.setenv("A_KEY", key)
    with pytest.raises(ConfigError, match=f"A_KEY is {state}"):
        Masker(Pii(replace="pseudonym", key="A_KEY"), Path())


def own_recognisers(root: Path) -> Path:
    folder = root / "configs/recognisers"
    folder.mkdir(parents=True)
    return folder / "own.yaml"


def test_own_recognisers_come_first(tmp_path: Path) -> None:
    own_recognisers(tmp_path).write_text(
        r"""
- {name: loyalty_card, pattern: '\b99\d{8}\b', validator: luhn, gate: '99'}
- {name: staff, pattern: '\b[A-Z]{2}\d{4}\b', context: [staff, employee no]}
""",
        encoding="utf-8",
    )
    config = Pii(recognisers="configs/recognisers/own.yaml")
    assert masked("call 9912345676", config, tmp_path) == "call [LOYALTY_CARD]"
    assert masked("Staff: AB1234, flight AB1234", config, tmp_path) == "Staff: [STAFF], flight AB1234"
    assert masked("number 9912345677", config, tmp_path) == "number 9912345677"


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("name: x", "expected a list"),
        ("- {name: x}", r"recogniser x: pattern: Field required.*Its keys are name, pattern, validator, context, gate"),
        ("- {name: x, pattern: '(', }", "recogniser x: .*not a regular expression"),
        ("- {name: x, pattern: 'a*'}", "recogniser x: .*matches empty text"),
        ("- {name: x, pattern: a, validator: nope}", "recogniser x: there is no validator nope.*luhn"),
        ("- {name: email, pattern: a}", "recogniser email: the name is taken"),
        ("- [", "not a readable YAML file"),
    ],
)
def test_a_bad_recogniser_is_named_with_what_is_legal(tmp_path: Path, yaml: str, said: str) -> None:
    own_recognisers(tmp_path).write_text(yaml, encoding="utf-8")
    with pytest.raises(ConfigError, match=said) as raised:
        Masker(Pii(recognisers="configs/recognisers/own.yaml"), tmp_path)
    assert "own.yaml" in str(raised.value)


def test_a_region_without_phones_is_refused() -> None:
    with pytest.raises(ConfigError, match="UK is no region"):
        Masker(Pii(regions=["GB", "UK"]), Path())


def test_names_are_found_by_the_model() -> None:
    out = masked("Yesterday Margaret Thompson wrote to jo@example.org about the hotel.", Pii(names=True))
    assert out == "Yesterday [PERSON] wrote to [EMAIL] about the hotel."


def test_names_without_their_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from forgeline.data.pii import names

    names.people.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"pip install 'forgeline\[names\]'"):
        Masker(Pii(names=True), Path())


def test_the_command_prints_the_measurement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forgeline.cli.data import personal

    monkeypatch.chdir(Path(__file__).parents[2])
    personal.pii(as_json=True)
    assert json.loads(capsys.readouterr().out)["overall"]["recall"] >= 0.99
    personal.pii()
    assert capsys.readouterr().out.splitlines()[-1].startswith("all\t")
