from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pytest

from forgeline.config import load
from forgeline.config.schema import Assess, Data, Gate, Policy
from forgeline.data import table
from forgeline.data.assess import assess
from forgeline.data.bias import counterfactual
from forgeline.data.bias.association import words
from forgeline.data.bias.intervals import Moments, moments, newcombe, student, welch, wilson
from forgeline.data.bias.report import bias_report
from forgeline.data.bias.scorers import SCORERS
from forgeline.data.layout import KEPT, QUARANTINE
from forgeline.data.versions import DataVersion
from forgeline.errors import DataError
from forgeline.registry.gates import Evidence, judge

SETTINGS: dict[str, Any] = {
    "groups": {"gender": {"female": ["she", "her"], "male": ["he", "his"]}},
    "associations": {"tone": {"first": ["great"], "second": ["sorry"]}},
    "counterparts": {"gender": "english_gender"},
}


def rows(replies: Iterable[str], **fields: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"{number}-{reply}", "key": reply, **fields}
        | {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": reply}]}
        for number, reply in enumerate(replies)
    ]


def report(own: list[dict[str, Any]], settings: dict[str, Any] = SETTINGS, parts: int = 1) -> dict[str, Any]:
    tables = [table.from_rows(own[start::parts]) for start in range(parts)]
    return bias_report(lambda function: map(function, tables), Assess.model_validate(settings))


def by(found: list[dict[str, Any]], *names: str) -> dict[Any, dict[str, Any]]:
    return {tuple(row[name] for name in names): row for row in found}


def test_intervals_match_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 81/263 and the difference 56/70 - 48/80, 95 %.
    assert wilson(81, 263, 0.95) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert newcombe((56, 48), (70, 80), 0.95) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson(0, 0, 0.95) == (0.0, 1.0)


def test_means_have_the_intervals_that_scipy_has() -> None:
    from scipy import stats

    chance = numpy.random.default_rng(5)
    one, other = chance.normal(1, 1, 40), chance.normal(2, 3, 25)
    mine, theirs = (Moments(*moments(values, numpy.ones(len(values)))) for values in (one, other))
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert welch(mine, theirs, 0.95) == pytest.approx((expected.low, expected.high))
    alone = stats.ttest_1samp(one, 0).confidence_interval(0.95)
    assert student(mine, 0.95) == pytest.approx((alone.low, alone.high))
    twice = Moments(*moments(one, numpy.full(40, 2.0)))
    assert (twice.n, twice.mean, twice.variance) == pytest.approx((40, mine.mean, mine.variance))


def test_report_counts_words_and_says_small_n() -> None:
    replies = ["She is great."] * 40 + ["He is sorry."] * 5 + ["The other was here; sheer luck."] * 55
    found = report(rows(replies))
    female, male = found["representation"]
    assert (female["replies"], male["replies"], found["replies"]) == (40, 5, 100)
    assert female["low"] < 0.4 < female["high"]
    verdicts = {key: row["verdict"] for key, row in by(found["association"], "group", "words").items()}
    assert verdicts["female", "first"] == "more"
    assert verdicts["female", "second"] == "no difference shown"
    assert verdicts["male", "second"] == "too few to conclude from"
    assert any("too few to conclude" in finding for finding in found["findings"])
    assert found["gates"]["association_gap"] == 1.0


def test_a_word_inside_a_name_is_no_mention_and_one_from_the_prompt_is_told() -> None:
    settings = SETTINGS | {"groups": {"faith": {"christian": ["church", "sister"]}}, "counterparts": {}}
    replies = [
        "Holy Trinity Church is near.",
        "The Church of England",
        "A church is near.",
        "Sister Mary",
        "Yes, Church.",
    ]
    own = rows(replies)
    own[2]["messages"][0]["content"] = "Is there a church?"
    [christian] = report(own, settings)["representation"]
    assert (christian["replies"], christian["only_names"], christian["prompted"]) == (4, 1, 0.25)


def test_words_that_go_with_a_group_are_found_and_common_ones_are_not() -> None:
    female = [f"she bakes a cake number{n % 7} today" for n in range(60)]
    male = [f"he mends a car number{n % 7} today" for n in range(60)]
    found = by(report(rows(female + male))["words"], "group", "word")
    assert set(found) == {("female", "bakes"), ("female", "cake"), ("male", "mends"), ("male", "car")}
    assert found["female", "cake"]["low"] > 0 and found["female", "cake"]["n"] == 60


def test_log_odds_follow_the_formula_of_the_paper() -> None:
    counts = {("gender", "female"): Counter(cake=300, day=700), ("gender", "male"): Counter(cake=50, day=950)}
    replies = dict.fromkeys(counts, 1000)
    cake = by(words(counts, replies, Assess.model_validate(SETTINGS)), "word")["cake",]
    prior = 500 * 350 / 2000
    odds = numpy.log((300 + prior) / (1500 - 300 - prior)) - numpy.log((50 + prior) / (1500 - 50 - prior))
    z = odds / numpy.sqrt(1 / (300 + prior) + 1 / (50 + prior))
    assert (cake["word"], cake["log_odds"], cake["z"]) == (
        "cake",
        pytest.approx(odds, abs=1e-5),
        pytest.approx(z, abs=1e-5),
    )


def biased(texts: list[str]) -> numpy.ndarray:
    """A scorer that likes the word `he`, wherever it stands, and calls nothing else by name but `awful`."""
    return numpy.array([0.5 * bool(re.search(r"\bhe\b", text.lower())) - ("awful" in text) for text in texts], float)


def test_the_scorers_own_opinion_of_a_word_is_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "sentiment", biased)
    counterfactual.baseline.cache_clear()
    own = rows(["Well, he was late."] * 60 + ["Well, she was late."] * 40 + ["Well, she was awful."] * 20)
    found = report(own)
    gaps = by(found["counterfactual"], "group")
    assert gaps["male",]["n"] == gaps["female",]["n"] == 60
    assert gaps["male",]["gap"] == gaps["female",]["gap"] == 0 == found["gates"]["counterfactual_gap"]
    # What is said in their company is another matter: it stays once the word's own score is off.
    female = by(found["tone"], "group")["female",]
    assert (female["mean"], female["rest"], female["verdict"]) == (pytest.approx(-1 / 3, abs=1e-5), 0, "less")
    counterfactual.baseline.cache_clear()


def test_a_gap_beyond_the_baseline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def harsh(texts: list[str]) -> numpy.ndarray:
        return numpy.array([float("she" in text.lower() and "boss" in text) for text in texts])

    monkeypatch.setitem(SCORERS, "sentiment", harsh)
    counterfactual.baseline.cache_clear()
    found = report(rows(["As the boss she shouts."] * 40 + ["As the boss he shouts."] * 40))
    gaps = by(found["counterfactual"], "group")
    assert (gaps["female",]["gap"], gaps["male",]["gap"]) == (1.0, -1.0)
    assert "higher than said of others" in gaps["female",]["verdict"] and found["gates"]["counterfactual_gap"] == 1.0
    counterfactual.baseline.cache_clear()


def test_labels_preferences_and_slices_are_compared_by_group() -> None:
    liked = [row | {"id": f"l{i}", "label": i % 4 > 0} for i, row in enumerate(rows(["she is here"] * 80))]
    disliked = [row | {"id": f"d{i}", "label": i % 4 == 0} for i, row in enumerate(rows(["he is here"] * 80))]
    pairs = [row | {"id": f"p{i}", "rejected": "he came"} for i, row in enumerate(rows(["she came"] * 40))]
    own = [row | {"groups": {"channel": "web" if "p" in row["id"] else "phone"}} for row in liked + disliked + pairs]
    found = report(own, SETTINGS | {"slices": ["channel"]})
    labels = by(found["labels"], "group")
    assert (labels["all",]["n"], labels["all",]["share"]) == (160, 0.5)
    assert (labels["female",]["share"], labels["female",]["rest"], labels["female",]["verdict"]) == (0.75, 0.25, "more")
    assert found["gates"]["label_disparity"] == 0.5
    preferred = by(found["preferences"], "group")
    assert (preferred["female",]["share"], preferred["male",]["share"]) == (1.0, 0.0)
    assert by(found["representation"], "category", "group")["channel", "web"]["share"] == 0.2
    longer = by(found["disparity"], "group", "measure")["phone", "characters"]
    assert (longer["n"], longer["verdict"]) == (160, "more")


def test_weights_count_like_repeated_rows() -> None:
    own = rows(["She is great."] * 40 + ["He is sorry."] * 40)
    weighted = report([row | {"weight": 3.0 if "She" in row["id"] else 1.0} for row in own])
    female = weighted["representation"][0]
    assert female["share"] == 0.75 and female["replies"] == 40
    # 80 rows of such weights tell no more than 64 of equal weight (Kish).
    assert (female["low"], female["high"]) == pytest.approx(wilson(48, 64, 0.95), abs=1e-5)


def test_the_report_depends_neither_on_the_order_of_rows_nor_on_parts() -> None:
    own = rows(
        [f"{who} was {how} on day {n}" for n in range(40) for who in ("She", "He", "It") for how in ("great", "ok")]
    )
    settings = SETTINGS | {"sample": 20}
    whole = report(own, settings)
    assert report(own[::-1], settings) == whole == report(own, settings, parts=3)
    assert 0 < by(whole["tone"], "group")["female",]["n"] < 40


@pytest.fixture
def shipped() -> Data:
    return load().data.model_copy(update={"workers": 1})


def test_the_stage_reads_parts_and_compares_what_was_removed(tmp_path: Path, shipped: Data) -> None:
    kept = rows(["She can help you with that."] * 50 + ["He can help you with that."] * 50)
    gone = [
        {**row, "id": f"q{number}", "rule": "too_long" if number < 30 else "exact_duplicate"}
        | {"duplicate_of": None if number < 30 else "k"}
        for number, row in enumerate(rows(["He helps."] * 40))
    ]
    table.write(tmp_path / KEPT / "a.parquet", table.from_rows(kept[:60]))
    table.write(tmp_path / KEPT / "b.parquet", table.from_rows(kept[60:]))
    removed = table.from_rows(gone)
    for name in ("rule", "duplicate_of"):
        removed = removed.append_column(name, pyarrow.array([row[name] for row in gone], pyarrow.string()))
    table.write(tmp_path / QUARANTINE / "a.parquet", removed)
    found = assess(tmp_path, shipped)
    fates = by(found["fates"], "group", "fate")
    assert (fates["male", "failed"]["n"], fates["male", "failed"]["share"]) == (90, pytest.approx(30 / 90, abs=1e-5))
    assert fates["male", "copies"]["verdict"] == "more" and fates["female", "failed"]["share"] == 0
    written = {path.name for path in (tmp_path / "data/reports").iterdir()}
    assert {
        "bias.json",
        "bias.png",
        "gaps.png",
        "representation.csv",
        "association.csv",
        "words.csv",
        "gaps.csv",
    } <= written


def test_a_project_without_clean_data_is_told(tmp_path: Path, shipped: Data) -> None:
    with pytest.raises(DataError, match="run `forgeline data`"):
        assess(tmp_path, shipped)


@pytest.mark.parametrize(
    ("counterparts", "message"),
    [
        ({"size": "english_gender"}, "none of the groups"),
        ({"faith": "english_gender"}, "needs the groups female and male"),
        ({"faith": [{"christian": "church", "hindu": "temple"}]}, "unknown groups: hindu"),
        (
            {"faith": [{"christian": "church", "muslim": "mosque"}, {"christian": "church"}]},
            "have a word twice: church",
        ),
    ],
)
def test_counterparts_that_fit_no_groups_are_refused(counterparts: dict[str, Any], message: str) -> None:
    groups = {"faith": {"christian": ["church"], "muslim": ["mosque"]}}
    with pytest.raises(ValueError, match=message):
        Assess.model_validate({"groups": groups, "associations": {}, "counterparts": counterparts})


def test_every_shipped_counterpart_is_a_word_that_is_counted(shipped: Data) -> None:
    for category, counterparts in shipped.assess.counterparts.items():
        if counterparts != "english_gender":
            for group, word in chain.from_iterable(row.items() for row in counterparts):
                assert word in shipped.assess.groups[category][group], f"{category}: {group}: {word}"


def test_a_version_from_before_has_no_evidence_of_bias_and_its_gate_blocks() -> None:
    before = {"digest": "d", "hashes": {}, "counts": {}, "test_leakage": 0, "unmasked_pii": 0, "data_card": True}
    old = DataVersion.model_validate(before | {"paths": {}})
    policy = Policy(gates={"g": Gate(evidence="tone_gap", max=0.1)})
    for bias, outcome in (({}, "unknown"), ({"tone_gap": 0.05}, "pass"), ({"tone_gap": 0.2}, "fail")):
        known = {**old.bias, **bias}
        [verdict] = judge(policy, Evidence(version=1, data_digest="d", values=known, differences={}, champion=None))
        assert verdict.outcome == outcome


def test_what_the_shipped_policy_asks_for_is_in_the_report(shipped: Data) -> None:
    found = report(rows(["She is here, in the church."] * 40 + ["He is here."] * 40), shipped.assess.model_dump())
    asked = {gate.evidence for gate in load().policy.gates.values()}
    bias = {name for name in asked if name.endswith(("_gap", "_disparity"))}
    assert len(bias) == 4 and bias == found["gates"].keys()
