"""Intervals, p-values, detectable differences and slices, on statistics whose truth is known."""

import json
import math

import numpy as np
import pytest

from forgeline.cli import environment, line
from forgeline.config import load
from forgeline.errors import EvaluationError
from forgeline.evaluation import Report, slice_differences, slices
from forgeline.evaluation.bootstrap import interval, paired_difference
from forgeline.evaluation.metrics import Bleu, Chrf, Perplexity, StopRate
from forgeline.evaluation.permutation import exchange, holm
from forgeline.evaluation.report import Row

CONFIG = load(overrides=["evaluate.bootstrap_samples=400", "evaluate.min_examples=20"])
SETTINGS = CONFIG.evaluate
RNG = np.random.default_rng(5)
WORDS = ["it", "the", "train", "hotel", "leaves", "at", "05:00", "is", "a", "cheap", "star", "in", "east", "goodbye"]


def texts(count):
    return [" ".join(RNG.choice(WORDS, size=RNG.integers(0, 9))) for _ in range(count)]


def scores(values):
    return np.column_stack([values, np.ones(len(values))])


def compared(mine, theirs, samples=1000):
    return paired_difference(StopRate(), scores(mine), scores(theirs), samples, 0.95, seed=1, power=0.8)


@pytest.mark.parametrize("metric", [Bleu(), Chrf(), Perplexity(), StopRate()])
def test_resamples_have_the_values_that_one_at_a_time_has(metric):
    if isinstance(metric, Bleu | Chrf):
        table = metric.statistics(texts(40), [texts(2) for _ in range(40)])
    else:
        table = np.column_stack([RNG.random(40), RNG.integers(1, 9, size=40)])
    draws = RNG.integers(0, 2, size=(30, 40)) * (RNG.random((30, 40)) < 0.3)
    draws[:, 0] = 1
    one_by_one = [metric.value(totals) for totals in draws @ table]
    assert metric.values(table, draws.astype(float)) == pytest.approx(one_by_one, abs=1e-9)


@pytest.mark.parametrize("metric", [Bleu(), Chrf()])
def test_empty_replies_and_replies_in_another_script_score_nothing(metric):
    for replies in (["", ""], ["поезд", "гостиница"]):
        table = metric.statistics(replies, [["the train", "a train"], ["the hotel"]])
        assert metric.values(table, np.ones((1, 2))) == pytest.approx([0], abs=1e-9)


def test_a_share_of_all_is_not_certain():
    found = interval(StopRate(), scores(np.ones(30)), samples=400, confidence=0.95, seed=1)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.8865, abs=1e-3)  # Wilson


def test_the_p_value_is_the_exact_tests():
    mine, theirs = np.array([1, 1, 1, 1, 1, 1, 1, 0.0]), np.zeros(8)
    found = exchange(StopRate(), scores(mine), scores(theirs), 7 / 8, samples=20_000, seed=1)
    assert found == pytest.approx(2 / 2**7, abs=0.003)  # all seven on one side
    same = scores(RNG.random(50))
    assert exchange(StopRate(), same, same, 0.0, samples=100, seed=1) == 1


def test_p_values_of_equal_models_are_below_five_per_cent_as_often_as_that():
    below = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        mine, theirs = rng.normal(0, 1, (2, 40))
        difference = mine.mean() - theirs.mean()
        below += exchange(StopRate(), scores(mine), scores(theirs), difference, samples=199, seed=seed) <= 0.05
    assert 5 <= below <= 27  # 15 expected


def test_what_is_called_detectable_is_detected_with_the_stated_power():
    rng = np.random.default_rng(2)
    detectable = compared(rng.normal(0, 1, 100), np.zeros(100)).detectable
    assert detectable == pytest.approx((1.96 + 0.84) / math.sqrt(100), rel=0.25)
    truth = (1.96 + 0.84) / math.sqrt(100)
    seen = sum(compared(rng.normal(truth, 1, 100), np.zeros(100), samples=200).low > 0 for _ in range(200))
    assert 0.7 < seen / 200 < 0.9


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def report(model, values, acts=("inform", "book")):
    n = len(values)
    rows = [
        Row(
            id=str(i),
            prompt="p",
            references=[" ".join(["the hotel is in the north"] * (1 + i % 3))],
            reply="r",
            tokens=1,
            stopped=True,
            groups={"act": "bye" if i < 5 else acts[i % len(acts)]},
        )
        for i in range(n)
    ]
    found = interval(StopRate(), scores(values), samples=400, confidence=0.95, seed=1)
    return Report(
        model=model, at="2026-11-01T00:00:00+00:00", test_digest="d", vocabulary="v", signature="s",
        settings={"stop_rate": {}}, metrics={"stop_rate": found}, not_measured={}, seconds={}, rows=rows,
        statistics={"stop_rate": scores(values).tolist()},
    )  # fmt: skip


def test_slices_are_judged_together_and_small_ones_not_at_all():
    noise = np.random.default_rng(3).normal(0, 0.2, 205)
    worse_in_book = np.where(np.arange(205) % 2 == 1, -0.5, 0.0) + noise
    mine, theirs = report("mine", worse_in_book), report("theirs", np.zeros(205))
    found = slice_differences(mine, theirs, "act", SETTINGS, seed=1)
    book, inform = found.estimates["book"]["stop_rate"], found.estimates["inform"]["stop_rate"]
    assert book.high < 0 and book.p < 0.01
    assert inform.low < 0 < inform.high and inform.p > 0.05
    assert (book.n + inform.n, found.too_few) == (200, {"bye": 5})
    assert book.confidence == pytest.approx(0.975)  # both hold with 95 %
    values = slices(mine, "act", SETTINGS, seed=1).estimates["book"]["stop_rate"]
    assert values.value == pytest.approx(book.value)


def test_length_and_language_are_slices_of_every_test_set():
    found = report("m", np.zeros(90))
    assert slices(found, "length", SETTINGS, seed=1).estimates.keys() == {"short", "middle", "long"}
    assert slices(found, "language", SETTINGS, seed=1).estimates.keys() == {"en"}
    with pytest.raises(EvaluationError, match=r"No test prompt has a group 'atc'; legal: act, length, language\."):
        slices(found, "atc", SETTINGS, seed=1)


def test_slices_of_unlike_reports_are_never_compared():
    mine = report("mine", np.zeros(60))
    for change, told in (
        ({"test_digest": "other"}, "different test prompts"),
        ({"settings": {"stop_rate": {"limit": 3}}}, "other settings of stop_rate"),
    ):
        with pytest.raises(EvaluationError, match=told):
            slice_differences(mine, mine.model_copy(update=change), "act", SETTINGS, seed=1)


def test_evaluate_shows_differences_and_slices(monkeypatch, capsys):
    noise = np.random.default_rng(3).normal(-0.5, 0.2, 205)
    reports = {"mine": report("mine", noise), "theirs": report("theirs", np.zeros(205))}
    monkeypatch.setattr(line, "_score", lambda config, name: reports[name])
    monkeypatch.setattr(environment, "project", lambda profile, set_: CONFIG)
    line.evaluate("mine", against="theirs", by="act")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "# mine on 205 test prompts [95% interval]"
    assert said[1].split("\t")[0] == "stop_rate" and said[1].split("\t")[3:] == ["0.00249", "0.04"]
    assert said[2].startswith("# differences to theirs, p adjusted (Holm) by act [intervals hold together at 95%]")
    assert [row.split("\t")[:2] for row in said[3:]] == [["book", "100"], ["inform", "100"], ["bye", "5"]]
    assert "p=0.0025" in said[3] and said[5].endswith("too few")
    line.evaluate("mine", by="act", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["by"], told["too_few"], set(told["slices"])) == ("act", {"bye": 5}, {"inform", "book"})
    assert told["slices"]["book"]["stop_rate"]["n"] == 100
